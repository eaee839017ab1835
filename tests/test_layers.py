"""Imports go one way: verbs compose nouns, and the noun folders do not know one another."""

import ast
import configparser
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "maskedclip"
NOUNS = {"data", "models", "losses", "engine", "eval", "pages", "cluster"}
FILES = sorted(PACKAGE.rglob("*.py"))
# what an import name is called on the package index
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_noun_folder_uses_nothing_of_ours_but_itself(path):
    layer = path.relative_to(PACKAGE).parts[0]
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("maskedclip.")}
    if layer in NOUNS:
        assert ours <= {layer}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_uses_launchers_or_tools(path):
    assert not {name.split(".")[0] for name in imported(path)} & {"launchers", "tools", "tests"}


def test_the_configuration_knows_no_other_part_of_the_package():
    ours = {n for n in imported(PACKAGE / "config.py") if n.startswith("maskedclip")}
    assert ours == {"maskedclip.casting"}


def test_every_package_that_is_imported_is_asked_for_in_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    declared = {line.split(">")[0].strip() for line in lines if line and not line.startswith("#")}
    used = {name.split(".")[0] for path in FILES for name in imported(path)}
    foreign = used - set(sys.stdlib_module_names) - {"maskedclip"}
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= declared | {"torchvision"}

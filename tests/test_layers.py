"""Imports go one way: nouns know only themselves, verbs compose nouns, and no circle closes."""

import ast
import configparser
import sys
from graphlib import TopologicalSorter
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "maskedclip"
FILES = sorted(PACKAGE.rglob("*.py"))
NOUNS = {"data", "models", "losses", "engine", "metrics"}
VERBS = {
    "pretrain", "finetune", "evaluate", "report", "explain", "weights", "shards", "plan", "doctor",
    "jobs", "grid", "predict",
}  # fmt: skip
ROOT_FILES = {
    "__init__", "casting", "config", "recipes", "command", "cluster_profile", "inference",
    "compare", "slurm", "next_step",
}  # fmt: skip
# what an import name is called on the package index
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn"}


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports anywhere; `from a import b` gives a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def room(path: Path) -> str:
    """Return the folder or root file that a module belongs to; each __main__ is one of its own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts) if parts[-1] == "__main__" else parts[0]


def rooms_imported(path: Path) -> set[str]:
    ours = {name for name in imported(path) if name.startswith("maskedclip.")}
    first = {name.split(".")[1] for name in ours}
    known = NOUNS | VERBS | ROOT_FILES
    return {name for name in first if name in known} - {room(path)}


def graph_of(files: list[Path]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for path in files:
        graph.setdefault(room(path), set()).update(rooms_imported(path))
    return graph


def test_the_rooms_of_the_package_are_those_written_here():
    folders = {p.relative_to(PACKAGE).parts[0] for p in FILES if p.parent != PACKAGE}
    assert folders == NOUNS | VERBS
    assert {p.stem for p in PACKAGE.glob("*.py")} == ROOT_FILES


def test_imports_between_rooms_close_no_circle():
    TopologicalSorter(graph_of(FILES)).prepare()  # CycleError names the rooms


def test_imports_between_files_close_no_circle():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph = {name: imported(path) & modules.keys() - {name} for name, path in modules.items()}
    packages = {name for name, path in modules.items() if path.name == "__init__.py"}
    for name, used in graph.items():  # the package above a module is imported with it, unasked
        graph[name] = {other for other in used if other not in packages or name not in packages}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_a_noun_uses_nothing_of_ours_but_itself(noun):
    assert graph_of(FILES)[noun] == set()


def test_a_noun_that_used_a_verb_would_be_seen():
    graph = graph_of(FILES)
    graph["data"] |= {"pretrain"}
    with pytest.raises(ValueError, match="nodes are in a cycle"):
        TopologicalSorter(graph).prepare()


def test_no_two_test_files_have_one_name():
    """As pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_each_class_name_stands_in_one_module():
    defined: dict[str, set[Path]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name, set()).add(path)
    assert {name: paths for name, paths in defined.items() if len(paths) > 1} == {}


def test_functions_are_under_sixty_lines():
    long = [
        (str(path.relative_to(ROOT)), node.name)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > 60
    ]
    assert long == []


def test_nothing_in_the_package_uses_launchers_or_tools():
    foreign = {"launchers", "tools", "benches", "tests"}
    used = {(p, name.split(".")[0]) for p in FILES for name in imported(p)}
    assert not used & set(product(FILES, foreign))


def test_each_verb_that_is_a_command_of_its_own_is_run_by_its_main():
    commands = {"pretrain", "finetune", "evaluate", "report", "explain", "grid", "predict"}
    assert {p.parent.name for p in PACKAGE.glob("*/__main__.py")} == commands


def test_every_package_that_is_imported_is_asked_for_in_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    declared = {line.split(">")[0].strip() for line in lines if line and not line.startswith("#")}
    used = {name.split(".")[0] for path in FILES for name in imported(path)}
    foreign = used - set(sys.stdlib_module_names) - {"maskedclip"}
    optional = {"torchvision", "pydicom", "open_clip"}  # of extras
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= declared | optional

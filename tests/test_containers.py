"""The container files install what the README installs; none is built here."""

import configparser
import re
import shutil
import subprocess
import sys
from email import message_from_string
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PLACE = "/opt/maskedclip"
# by file: its base image, the paths that it copies to PLACE, the commands that it runs there
DOCKER, APPTAINER = "Dockerfile", "maskedclip.def"


def lines(name: str) -> list[str]:
    text = (ROOT / "containers" / name).read_text()
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def contents(name: str) -> tuple[str, list[str], list[str]]:
    """Return the base image, what is copied to PLACE, and the commands that are run there."""
    ours = lines(name)
    if name == DOCKER:
        assert ours[1] == f"WORKDIR {PLACE}"
        copied = [line.split()[1:] for line in ours if line.startswith("COPY ")]
        assert all(target in ("./", *sources) for *sources, target in copied)
        run = [line.removeprefix("RUN ") for line in ours if line.startswith("RUN ")]
        return ours[0].removeprefix("FROM "), [s for *some, _ in copied for s in some], run
    assert ours[0] == "Bootstrap: docker"
    parts = re.split(r"^%(\w+)$", "\n".join(ours), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], (part.split("\n") for part in parts[2::2]), strict=True))
    copied = [line.split() for line in sections["files"] if line]
    assert {target for _, target in copied} == {f"{PLACE}/"}
    first, *run = [line for line in sections["post"] if line]
    assert first == f"cd {PLACE}"
    return ours[1].removeprefix("From: "), [source for source, _ in copied], run


def readme_installs() -> list[str]:
    block = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[0]
    return [line for line in block.splitlines() if line.startswith("pip ")]


def options() -> configparser.SectionProxy:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["options"]


@pytest.mark.parametrize("name", [DOCKER, APPTAINER])
def test_it_installs_by_the_command_of_the_readme_and_nothing_else(name: str) -> None:
    assert contents(name)[2] == readme_installs() == ["pip install -e ."]


def test_both_files_begin_and_copy_the_same() -> None:
    assert contents(DOCKER) == contents(APPTAINER)


@pytest.mark.parametrize("name", [DOCKER, APPTAINER])
def test_its_python_is_that_of_the_readme_and_within_the_range_of_setup_cfg(name: str) -> None:
    (version,) = re.findall(r"^python:(\d+\.\d+)-slim-\w+$", contents(name)[0])
    assert version in SpecifierSet(options()["python_requires"])
    assert f"With Python {version} and nothing else" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", [DOCKER, APPTAINER])
def test_what_it_copies_is_the_package_with_its_requirements(name: str, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    _, copied, _ = contents(name)
    for path in copied:
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
        copy(ROOT / path, tmp_path / path)
    code = (
        "from setuptools.build_meta import prepare_metadata_for_build_editable as prepare;"
        "print(prepare('metadata'))"
    )
    (tmp_path / "metadata").mkdir()
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    folder = tmp_path / "metadata" / said.split()[-1]
    metadata = message_from_string((folder / "METADATA").read_text())
    asked = {Requirement(line) for line in metadata.get_all("Requires-Dist")}
    listed = options()["install_requires"].splitlines()
    wanted = {Requirement(line) for line in listed if line and line[0] != "#"}
    assert {one for one in asked if one.marker is None} == wanted
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(options()["python_requires"])
    assert (tmp_path / "launchers" / "submit_pretrain.py").is_file()
    assert (tmp_path / "tools" / "doctor.py").is_file()

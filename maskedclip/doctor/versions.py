"""Python and the packages: what is asked for, and which versions have known holes."""

import configparser
import importlib.metadata
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.doctor.finding import Finding, State, absent, failed, ok, warning

_PYTHON = (3, 11)


class Hole(NamedTuple):
    """A fault of a package from version `since` (empty: from the first) until before `below`."""

    package: str
    since: str
    below: str
    state: State
    harm: str


HOLES = (
    # GHSA-53q9-r3pm-6pq6, GHSA-63cw-57p8-fm3p: weights_only=True, with which .pth files are read
    Hole("torch", "", "2.6.0", "failed", "CVE-2025-32434: a .pth file can run code when read"),
    Hole("torch", "", "2.10.0", "failed", "CVE-2026-24747: a .pth file can run code when read"),
    # github.com/huggingface/pytorch-image-models/pull/2708, released 2026-07-10
    Hole("timm", "", "1.0.28", "warning", "GHSA-pqww-w348-m542: its loaders unpickle"),
    # 4372 is of from_pretrained itself, without trust_remote_code
    Hole("transformers", "4.56.0", "5.3.0", "failed", "CVE-2026-4372: config.json can run code"),
    Hole("transformers", "", "4.48.0", "failed", "CVE-2024-11393: model files can run code"),
    # github.com/facebookincubator/submitit/pull/1788 and issues/1765
    Hole("submitit", "", "1.5.3", "failed", "a pre-empted job counts as failed (#1788)"),
    # webdataset/issues/227 and dclm/issues/62: arguments of its writers and readers changed
    Hole("webdataset", "", "0.2.90", "warning", "other arguments than those used since 0.2.90"),
    # the first with the ABI that torch and opencv are compiled for now
    Hole("numpy", "", "2.0.0", "failed", "modules compiled for NumPy 2 do not load"),
    # GHSA-cfh3-3jmp-rvhc; 12.3.0 and 13.0.0 mend heap overflows, CVE-2026-59199 and -96639
    Hole("pillow", "", "12.1.1", "failed", "CVE-2026-25990: an image can write out of bounds"),
    Hole("pillow", "", "12.3.0", "warning", "CVE-2026-59199: crops can write out of bounds"),
    Hole("pillow", "", "13.0.0", "warning", "CVE-2026-96639: an image can write out of bounds"),
    # github.com/opencv/opencv/issues/26488: what is missing of a JPEG is filled from another one
    Hole("opencv-python-headless", "4.10.0", "4.12.0", "failed",
         "CVE-2025-53644, and a damaged JPEG shows parts of the one before it"),
    Hole("protobuf", "", "5.29.5", "warning", "CVE-2025-4565: nested messages end the process"),
)  # fmt: skip
CHECKED = tuple(dict.fromkeys(hole.package for hole in HOLES))


def release(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def installed(package: str) -> str:
    """Return the version of an installed package, empty where it is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def python(version: Sequence[int]) -> Finding:
    """Judge the version of Python."""
    shown, wanted = ".".join(map(str, version[:3])), ".".join(map(str, _PYTHON))
    if tuple(version[:2]) < _PYTHON:
        return failed(
            f"{shown}, below {wanted}", f"python{wanted} -m venv .venv, and install there"
        )
    return ok(shown)


def holes(package: str, version: str) -> Finding:
    """Judge a version of `package` by the list of known holes."""
    if not version:
        return failed("is not installed", f"pip install {package}")
    known = [hole for hole in HOLES if hole.package == package]
    here = [
        hole
        for hole in known
        if release(hole.since) <= release(version) < release(hole.below)
    ]  # fmt: skip
    if not here:
        return ok(f"{version}, none of {len(known)} known holes")
    state: State = "failed" if any(hole.state == "failed" for hole in here) else "warning"
    newest = max((hole.below for hole in here), key=release)
    said = "; ".join(hole.harm for hole in here)
    return Finding(state, f"{version}: {said}", f"pip install -U '{package}>={newest}'")


def asked_for(root: Path) -> list[str]:
    """Return the requirements as setup.cfg has them, or as they were installed."""
    setup = configparser.ConfigParser()
    if setup.read(root / "setup.cfg") and setup.has_section("options"):
        lines = setup["options"].get("install_requires", "").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        found = importlib.metadata.requires("maskedclip") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [line for line in found if "extra ==" not in line]


def requirements(lines: Sequence[str], versions: Mapping[str, str]) -> Finding:
    """Judge installed versions (empty: none) by requirements such as torch>=2.13,<2.15."""
    if not lines:
        return absent("neither setup.cfg nor an installed package says what is needed")
    wrong = []
    for line in lines:
        package = re.match(r"[\w.-]+", line)
        assert package
        version = versions.get(package[0], "")
        bounds = re.findall(r"(>=|<)\s*([\d.]+)", line)
        fits = all((release(version) >= release(b)) == (sign == ">=") for sign, b in bounds)
        if not version or not fits:
            wrong.append(f"{package[0]} {version or 'missing'} (wanted {line[package.end() :]})")
    if wrong:
        return failed("; ".join(wrong), "pip install -U -e .")
    return ok(f"all {len(lines)} packages of setup.cfg")


def git(root: Path) -> Finding:
    """Judge whether a run can keep the commit and the difference it was made from."""
    try:
        done = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return warning(
            "no git here: runs do not know their commit", "install git (apt install git)"
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["git refuses"])[-1]
        return warning(
            f"{root} is no checkout ({said}): runs do not know their commit",
            f"git clone the project, or git config --global --add safe.directory {root}",
        )
    changed = [line for line in done.stdout.splitlines() if not line.startswith("??")]
    return ok("clean" if not changed else f"{len(changed)} changed files, kept in each run")


def utf8(encodings: Mapping[str, str]) -> Finding:
    """Judge the encodings in use, by what they are for."""
    other = {use: name for use, name in encodings.items() if "utf" not in name.lower()}
    if other:
        said = ", ".join(f"{use} {name}" for use, name in other.items())
        return warning(
            f"{said}: names with other letters break", "export PYTHONUTF8=1 LC_ALL=C.UTF-8"
        )
    return ok("UTF-8")


def code_changes(environment: Mapping[str, str] = os.environ) -> Finding:
    """Judge environment variables that put other code, or other devices, before the run's."""
    mends = {
        "PYTHONHOME": "is another Python's home",
        "LD_PRELOAD": "puts another library before all others",
        "PYTHONOPTIMIZE": "leaves the checks out",
        "CUDA_LAUNCH_BLOCKING": "makes every step wait for the GPU",
        "NCCL_P2P_DISABLE": "keeps GPUs from talking directly",
    }
    found = [name for name in mends if environment.get(name)]
    if found:
        said = "; ".join(f"{name}={environment[name]} {mends[name]}" for name in found)
        return warning(said, f"unset {' '.join(found)}, unless it is meant")
    return ok(f"none of {len(mends)} that slow down or change a run")

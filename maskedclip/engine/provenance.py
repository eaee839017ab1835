"""Provenance of a run, so that a number can be traced: code, versions, data, machine, command."""

import hashlib
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from maskedclip.engine.device_settings import allocator_settings
from maskedclip.engine.whole_file import read_json, write_whole

logger = logging.getLogger(__name__)
_PACKAGES = ("torch", "timm", "transformers", "numpy", "scikit-learn", "webdataset", "submitit")

MANIFEST, EXCLUSIONS = "manifest.json", "exclude.csv"
Identify = Callable[[Path], str]  # returns the hash by which a dataset is recognised


def provenance(
    datasets: Sequence[Path], seed: int, world: int, identify: Identify
) -> dict[str, Any]:
    """Return the facts as a JSON object; `datasets` are shard directories."""
    data = {str(path): _data_sha256(path, identify) for path in datasets}
    return {
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "manifests_sha256": {name: manifest for name, (manifest, _) in data.items()},
        "exclusions_sha256": {name: listed for name, (_, listed) in data.items() if listed},
        "seed": seed,
        "world": world,
        "host": platform.node(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "allocator": allocator_settings(),
        "slurm": {k: v for k, v in sorted(os.environ.items()) if k.startswith("SLURM_JOB")},
        "command": shlex.join(sys.argv),
    }


def check_data(path: Path, datasets: Sequence[Path], identify: Identify) -> None:
    """Raise ValueError where the last attempt of a run, recorded in `path`, read other data.

    Other data are another manifest or another exclude.csv; a directory that was moved is the same.
    """
    attempts = attempts_in(path)
    if not attempts:
        return
    before = attempts[-1]
    excluded = before.get("exclusions_sha256", {})  # absent before there were such lists
    earlier = [(digest, excluded.get(name)) for name, digest in before["manifests_sha256"].items()]
    for recorded, directory in zip(earlier, dict.fromkeys(datasets), strict=False):
        current = _data_sha256(directory, identify)
        if recorded != current:
            changed = MANIFEST if recorded[0] != current[0] else EXCLUSIONS
            raise ValueError(
                f"{path.parent} holds a run that read {directory} with another {changed}; "
                f"choose another --name, or put back the {changed} that it was begun with"
            )


def _data_sha256(directory: Path, identify: Identify) -> tuple[str, str | None]:
    """Return the hashes of a dataset and of its list of excluded samples."""
    digest, exclusions = identify(directory), directory / EXCLUSIONS
    if not exclusions.is_file():
        return digest, None
    return digest, hashlib.sha256(exclusions.read_bytes()).hexdigest()


def attempts_in(path: Path) -> list[dict[str, Any]]:
    """Return the facts of all starts of a run; ValueError, with the file, where it is not whole."""
    if not path.exists():
        return []
    remedy = "remove it, and the same command goes on: its data are then not compared with earlier"
    attempts: list[dict[str, Any]] = read_json(path, remedy)
    return attempts


def record(facts: dict[str, Any], path: Path) -> None:
    """Append the facts of this attempt to those of the earlier ones; a full disk costs these."""
    attempts = attempts_in(path)
    try:
        write_whole(path, json.dumps([*attempts, facts], indent=1) + "\n")
    except OSError as error:
        logger.warning("%s: this start is not in it (%s)", path, error.strerror)


def _git() -> dict[str, str] | None:
    """Return the commit and the hash of the uncommitted diff; None where git does not track us."""
    package = Path(__file__).parents[1]
    # the snapshot of a job brings these files along
    snapshot = [package.parent / name for name in ("commit.txt", "changes.diff")]

    def git(*arguments: str) -> bytes | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=package, capture_output=True, check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout if done.returncode == 0 else None

    commit: bytes | None
    difference: bytes | None
    if all(path.is_file() for path in snapshot):
        commit, difference = (path.read_bytes() for path in snapshot)
    elif git("ls-files", "--", "__init__.py"):  # else a checkout merely surrounds this package
        commit, difference = git("rev-parse", "HEAD"), git("diff", "--binary", "HEAD", "--", ".")
    else:
        return None
    if commit is None or difference is None:
        return None
    digest = hashlib.sha256(difference).hexdigest() if difference else ""
    return {"commit": commit.decode().strip(), "diff_sha256": digest}

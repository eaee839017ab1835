"""Checkpoints as files: a directory exists only if it is whole, fsynced, hashed and renamed.

    checkpoints/step-00012000/   DCP files and manifest.json with the sha256 of each
    checkpoints/step-*.tmp       what a killed run was writing or removing; gone at the next save

DCP's own metadata is a pickle, so nothing is handed to DCP before its hash has been checked.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def directory_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` stands, or would."""
    return folder / f"step-{step:08d}"


def newest_first(folder: Path) -> list[Path]:
    """Return all published checkpoints, verified or not, by step."""
    return sorted(folder.glob("step-????????"), reverse=True)


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint that verifies; damaged ones are named and passed over."""
    for path in newest_first(folder):
        fault = verify(path)
        if fault is None:
            return path
        logger.warning("%s: %s; passed over for an older checkpoint", path, fault)
    return None


def verify(directory: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return f"no {MANIFEST}"
    try:
        expected: Mapping[str, str] = json.loads(manifest.read_text())["sha256"]
        present = {path.name for path in directory.iterdir()} - {MANIFEST}
        if missing := sorted(set(expected) ^ present):
            return f"{missing[0]} is missing or was added"
        with ThreadPoolExecutor() as pool:  # a file of GB for each rank, and a GB a second a core
            found = pool.map(_digest, [directory / name for name in expected])
            for (name, digest), now in zip(expected.items(), found, strict=True):
                if now != digest:
                    return f"{name} is not what was written (sha256)"
    except OSError as error:  # a bad sector, or a file of another user
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return None


def clear(folder: Path, temporary: Path) -> None:
    """Remove what killed runs left half written or half removed, and make `temporary`."""
    for left_over in folder.glob("step-*.tmp"):
        shutil.rmtree(left_over)
    temporary.mkdir(parents=True)
    _sync(folder.parent)


def bring_to_disk(directory: Path, rank: int) -> dict[str, str]:
    """Fsync the files that DCP wrote on `rank`, and return their sha256 by name.

    Each rank calls it for its own: they lie in the cache of the machine that wrote them.
    """
    paths = [*directory.glob(f"__{rank}_*"), *([directory / ".metadata"] if rank == 0 else [])]
    for path in paths:
        _sync(path)
    return {path.name: _digest(path) for path in paths}


def publish(temporary: Path, target: Path, step: int, sha256: Mapping[str, str]) -> None:
    """Write the manifest and give the directory its name, in place of a damaged one."""
    present = {path.name for path in temporary.iterdir()}
    if missing := sorted(present ^ set(sha256)):
        raise OSError(f"{temporary / missing[0]} is not seen alike by all ranks: share the storage")
    manifest = temporary / MANIFEST
    content = {"step": step, "sha256": dict(sorted(sha256.items()))}
    manifest.write_text(json.dumps(content, indent=1) + "\n")
    _sync(manifest)
    _sync(temporary)
    before = target.with_name(f"{target.name}.old.tmp")
    if target.exists():  # damaged, or the run would have gone on from it
        target.rename(before)
    temporary.rename(target)
    _sync(target.parent)
    if before.exists():
        shutil.rmtree(before)


def remove_older(folder: Path, keep: int, known: dict[Path, str | None]) -> None:
    """Remove all but the newest `keep` that are whole, and what stands between them.

    known: what verify says of each checkpoint, as far as this process knows. It is asked for others
    once, and only when there are more than `keep`; damaged ones count for nothing.
    """
    paths = newest_first(folder)
    whole = 0
    for path in paths if len(paths) > keep else ():
        if whole == keep:
            # renamed first: a removal that is cut short must not look like a damaged checkpoint
            shutil.rmtree(path.rename(path.with_name(f"{path.name}.old.tmp")))
            continue
        if path not in known:
            known[path] = verify(path)
            if known[path] is not None:
                logger.warning("%s: %s; not counted among those kept", path, known[path])
        whole += known[path] is None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Check a dataset directory against its manifest, and third-party tars, to the last sample."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskedclip.data.class_order import in_order
from maskedclip.data.label_kinds import labels_in
from maskedclip.data.labelled import labelled
from maskedclip.data.splits import FOLDER as SPLITS
from maskedclip.data.splits import read_split
from maskedclip.data.storage.exclusions import EXCLUSIONS, read_exclusions
from maskedclip.data.storage.manifest import datasets_below, is_dataset
from maskedclip.data.storage.shard_writer import MANIFEST, SELF_SHA256, manifest_sha256
from maskedclip.data.storage.shards import Shards, read_manifest
from maskedclip.data.storage.third_party_tars import third_party_tars
from maskedclip.data.together import TOGETHER, read_together
from maskedclip.shards.building.contact_sheet import FILE as CONTACT_SHEET
from maskedclip.shards.checks.shard import SIDE_LIMIT, Problem, StoredSample, check_shard
from maskedclip.shards.checks.third_party import check_samples


class CheckedDataset(NamedTuple):
    """A dataset directory after its check."""

    directory: Path
    name: str
    problems: list[Problem]
    samples: list[StoredSample]  # those without a problem, in order
    keys: frozenset[str]  # of all its samples
    excluded: frozenset[str]  # keys that its exclude.csv names
    kinds: Mapping[str, str] = {}  # of its tasks that are no plain class
    third_party: bool = False
    whole: bool = False  # of images without a round field, as its card says


def check_dataset(directory: Path, workers: int, done: Callable[[int], object]) -> CheckedDataset:
    """Return every problem of a dataset directory or of third-party tars, and the intact samples.

    `done` is called with the number of samples checked. Raises ValueError, in one line, where
    there is no dataset.
    """
    if third_party_tars(directory):
        return _check_tars(Shards(directory), workers, done)
    try:
        manifest = manifest_of(directory)
    except DamagedManifest as error:
        problem = Problem(MANIFEST, "", str(error).removeprefix(f"{directory / MANIFEST}: "))
        return CheckedDataset(directory, directory.name, [problem], [], frozenset(), frozenset())
    entries, problems = _entries(manifest)
    name = str(manifest["name"])
    settings = manifest.get("settings")
    largest = settings.get("size") if isinstance(settings, dict) else None
    largest = largest if isinstance(largest, int) else SIDE_LIMIT

    def shard(entry: dict[str, Any]) -> tuple[list[Problem], list[StoredSample], list[str]]:
        return check_shard(directory, entry, (manifest, largest), done)

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(shard, entries))
    samples = [sample for _, intact, _ in results for sample in intact]
    keys = [key for _, _, listed in results for key in listed]
    problems += [problem for listed, _, _ in results for problem in listed]
    problems += [Problem("", key, "two samples have this key") for key in _repeated(keys)]
    if manifest.get("samples") != len(keys):
        reason = f"says {manifest.get('samples')} samples, the indexes name {len(keys)}"
        problems.append(Problem(MANIFEST, "", reason))
    known = {MANIFEST, EXCLUSIONS, TOGETHER, CONTACT_SHEET, SPLITS}
    known |= {entry[k] for entry in entries for k in ("file", "index")}
    known |= {path.name for path in directory.iterdir() if is_dataset(path)}  # checked by itself
    extra = sorted(path.name for path in directory.iterdir() if path.name not in known)
    problems += [Problem(file, "", f"is not named by {MANIFEST}") for file in extra]
    try:
        excluded = {entry.key for entry in read_exclusions(directory, keys)}
    except ValueError as error:
        excluded = set()
        problems.append(Problem(EXCLUSIONS, "", str(error).partition(": ")[2]))
    try:
        read_together(directory, frozenset(keys))
    except ValueError as error:
        problems.append(Problem(TOGETHER, "", str(error).partition(": ")[2]))
    problems += _split_problems(directory) if not problems else []
    kinds = manifest.get("kinds")
    return CheckedDataset(
        directory,
        name,
        problems,
        samples,
        frozenset(keys),
        frozenset(excluded),
        kinds if isinstance(kinds, dict) else {},
        whole=manifest.get("field") == "whole",
    )


def _check_tars(dataset: Shards, workers: int, done: Callable[[int], object]) -> CheckedDataset:
    problems, samples, kinds = check_samples(dataset, workers, done)
    keys = [dataset.key(index) for index in range(len(dataset))]
    excluded = frozenset(keys[index] for index in dataset.excluded)
    found = (problems, samples, frozenset(keys), excluded)
    return CheckedDataset(dataset.directory, dataset.name, *found, kinds, third_party=True)


def samples_of(directory: Path) -> int:
    """Return how many samples a dataset has, 0 where its manifest is damaged.

    Raises ValueError, in one line, where there is no dataset.
    """
    if third_party_tars(directory):
        return len(Shards(directory))
    try:
        samples: int = manifest_of(directory)["samples"]
    except DamagedManifest:
        return 0
    return samples


def datasets_at(path: Path) -> list[Path]:
    """Return the path itself where it holds a dataset, and the datasets in its folders.

    Raises ValueError, in one line, where there is none.
    """
    below = datasets_below(path) if path.is_dir() else []
    here = third_party_tars(path) or (path / MANIFEST).exists() or not below
    return [path, *below] if here else below


def _split_problems(directory: Path) -> list[Problem]:
    """Return the problems of the split files; only an intact dataset can be compared with them."""
    dataset, problems = Shards(directory), []
    excluded = {dataset.key(index) for index in dataset.excluded}
    for path in sorted((directory / SPLITS).glob("*")):
        name = re.sub(r"(-seed\d+)?\.csv$", "", path.name)
        try:
            read_split(path, labelled(dataset, name), excluded)
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            problems.append(Problem(f"{SPLITS}/{path.name}", "", reason))
    return problems


class DamagedManifest(ValueError):  # noqa: N818 - it is not the code that erred
    """A file manifest.json that is not a valid manifest."""


def manifest_of(directory: Path) -> dict[str, Any]:
    """Return the manifest; DamagedManifest where it is invalid, ValueError where it is missing."""
    try:
        manifest = read_manifest(directory)
    except ValueError as error:
        if (directory / MANIFEST).is_file():
            raise DamagedManifest(str(error)) from None
        raise
    if not isinstance(manifest["shards"], list) or not isinstance(manifest.get("samples"), int):
        raise DamagedManifest(f"{directory / MANIFEST}: has no list of shards or no count")
    return manifest


def _entries(manifest: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return the valid entries (plain file names and hashes), and the problems of the others."""
    entries, problems = [], []
    kinds = {"file": str, "index": str, "sha256": str, "index_sha256": str, "bytes": int}
    for number, entry in enumerate(manifest["shards"]):
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(name), kind) for name, kind in (kinds | {"samples": int}).items()
        ):
            problems.append(Problem(MANIFEST, "", f"entry {number} of its shards is not whole"))
        elif any(Path(entry[k]).name != entry[k] or "\0" in entry[k] for k in ("file", "index")):
            problems.append(Problem(MANIFEST, "", f"entry {number} names a file elsewhere"))
        else:
            entries.append(entry)
    if SELF_SHA256 in manifest and manifest[SELF_SHA256] != manifest_sha256(manifest):
        problems.append(Problem(MANIFEST, "", f"{SELF_SHA256} is not that of its content"))
    return entries, problems


def _repeated(keys: list[str]) -> list[str]:
    return sorted(key for key, count in Counter(keys).items() if count > 1)


_SHARES = (0, 5, 25, 50, 75, 95, 100)  # percent


def tables(checked: CheckedDataset) -> dict[str, Any]:
    """Return counts by split, by class and split, and quantiles of sizes in pixels.

    An image of several labels counts for each of them, and for "" where it has none.
    """
    samples = checked.samples
    splits = Counter(sample.metadata.split or "none" for sample in samples)
    labels: dict[str, dict[str, Counter[str]]] = {}
    for sample in samples:
        for task, text in sample.metadata.labels.items():
            kind = checked.kinds.get(task, "class")
            values = {"labels": labels_in(text) or [""], "number": ["a number"]}.get(kind, [text])
            for value in values:
                counts = labels.setdefault(task, {}).setdefault(value, Counter())
                counts[sample.metadata.split or "none"] += 1
    return {
        "samples": len(samples),
        "patients": len({sample.metadata.patient for sample in samples} - {None}),
        "without_patient": sum(sample.metadata.patient is None for sample in samples),
        "with_caption": sum(sample.metadata.captioned for sample in samples),
        "splits": dict(sorted(splits.items())),
        "labels": {
            task: {value: dict(sorted(classes[value].items())) for value in in_order(classes)}
            for task, classes in sorted(labels.items())
        },
        "original_width": _quantiles([sample.metadata.width for sample in samples]),
        "original_height": _quantiles([sample.metadata.height for sample in samples]),
        "stored_side": _quantiles([sample.side for sample in samples]),
    }


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    """Return the percentiles _SHARES of the values."""
    if not values:
        return {}
    quantiles = np.percentile(values, _SHARES, method="nearest")
    return {str(share): int(value) for share, value in zip(_SHARES, quantiles, strict=True)}

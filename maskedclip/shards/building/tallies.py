"""What a manifest counts: each shard leaves a tally, and tallies add up."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from maskedclip.data.photographs.quality import Look, candidates, worst


def tally_of(
    samples: Iterable[tuple[str, Mapping[str, Any], Look | None, Sequence[str]]],
) -> dict[str, Any]:
    """Return what a shard's note keeps of its samples, as JSON.

    Args:
        samples: (key, metadata, how it looks, what its file told beside the pixels). Little is
            kept of each, so that a build of a million files fits into memory.
    """
    counts: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {}
    patients: set[str] = set()
    copies: list[tuple[str, str]] = []
    looks: list[tuple[str, Look]] = []
    for key, metadata, look, carried in samples:
        captioned = bool(metadata["categories"] or metadata["report"])
        counts.update({"with_caption": captioned, "without_caption": not captioned})
        counts["with_report"] += metadata["report"] is not None
        counts["labelled"] += bool(metadata["labels"])
        splits[metadata["split"] or "none"] += 1
        categories.update(metadata["categories"])
        removed.update(carried)
        for task, value in metadata["labels"].items():
            labels.setdefault(task, Counter())[value] += 1
        patients |= {metadata["patient"]} - {None}
        copies.append((metadata["sha256"], metadata["source"]))
        looks += [(key, look)] if look else []
    return {
        "counts": counts,
        "splits": splits,
        "labels": labels,
        "categories": categories,
        "removed": removed,
        "patients": sorted(patients),
        "copies": copies,
        "looks": candidates(looks),
    }


def summary_of(
    notes: Sequence[Mapping[str, Any]], order: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the counts, duplicates and rejected files that the notes of the shards name.

    Args:
        order: of the classes of a task; classes that it does not name come behind, sorted.
    """
    tallies = [note["tally"] for note in notes]
    labels = {
        task: _in_order(_sum(tally["labels"].get(task, {}) for tally in tallies), order, task)
        for task in sorted({task for tally in tallies for task in tally["labels"]})
    }
    same: dict[str, list[str]] = {}
    for tally in tallies:
        for digest, source in tally["copies"]:
            same.setdefault(digest, []).append(source)
    looks = [(key, Look(*look)) for tally in tallies for key, look in tally["looks"]]
    counts = _sum(tally["counts"] for tally in tallies)
    return {
        "counts": {
            "with_caption": counts["with_caption"],
            "without_caption": counts["without_caption"],
            "with_report": counts["with_report"],
            "labelled": counts["labelled"],
            "patients": len({patient for tally in tallies for patient in tally["patients"]}),
            "splits": _sorted(_sum(tally["splits"] for tally in tallies)),
            "labels": labels,
            "categories": _sorted(_sum(tally["categories"] for tally in tallies)),
        },
        "classes": {task: list(found) for task, found in labels.items()},
        "duplicates": sorted(sorted(sources) for sources in same.values() if len(sources) > 1),
        "removed": _sorted(_sum(tally["removed"] for tally in tallies)),
        "worst_looking": worst(looks),
        "rejected": [
            {"source": source, "reason": reason}
            for note in notes
            for source, reason in note["rejected"]
        ],
    }


def _sum(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _in_order(
    counts: Mapping[str, int], order: Mapping[str, Sequence[str]], task: str
) -> dict[str, int]:
    known = [name for name in order.get(task, ()) if name in counts]
    return {name: counts[name] for name in [*known, *sorted(counts.keys() - set(known))]}

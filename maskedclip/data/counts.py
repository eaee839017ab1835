"""What a manifest counts."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any


def facts_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what a shard's note keeps of one sample, to be counted at the end."""
    names = ("source", "sha256", "split", "labels", "categories", "patient", "report")
    return {name: metadata[name] for name in names} | {"report": metadata["report"] is not None}


def summary_of(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts, duplicates and rejected files that the notes of the shards name."""
    facts = [fact for note in notes for fact in note["facts"]]
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    same: defaultdict[str, list[str]] = defaultdict(list)
    for fact in facts:
        same[fact["sha256"]].append(fact["source"])
        for task, value in fact["labels"].items():
            labels[task][value] += 1
    with_caption = sum(bool(fact["categories"] or fact["report"]) for fact in facts)
    return {
        "counts": {
            "with_caption": with_caption,
            "without_caption": len(facts) - with_caption,
            "with_report": sum(fact["report"] for fact in facts),
            "patients": len({fact["patient"] for fact in facts} - {None}),
            "splits": _counted(fact["split"] or "none" for fact in facts),
            "labels": {task: dict(sorted(labels[task].items())) for task in sorted(labels)},
            "categories": _counted(name for fact in facts for name in fact["categories"]),
        },
        "classes": {task: sorted(labels[task]) for task in sorted(labels)},
        "duplicates": sorted(sorted(sources) for sources in same.values() if len(sources) > 1),
        "rejected": [
            {"source": source, "reason": reason}
            for note in notes
            for source, reason in note["rejected"]
        ],
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))

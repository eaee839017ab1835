"""The kinds of a task, and how the labels of an image are written: as one text.

"class": the name of its class. "labels": all that it has, joined by `|` in the order of the
manifest, and empty where it was examined and has none. "number": a number. An image that was not
examined has no entry. The manifest names the kind of a task under `kinds` where it is no class.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = ("class", "labels", "number")
SEPARATOR = "|"  # no label holds it
NO_LABEL = "no sample has a label; choose a labelled dataset"


def refuse_unlabelled(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raise ValueError where a manifest counts no sample with a label, before any is read."""
    if manifest.get("counts", {}).get("labelled") == 0:
        raise ValueError(f"{directory}: {NO_LABEL}")


def kind_of(manifest: Mapping[str, Any], task: str) -> str:
    """Return the kind of a task; ValueError for one that this version does not know."""
    kind = str(manifest.get("kinds", {}).get(task, "class"))
    if kind not in KINDS:
        raise ValueError(f"task {task}: unknown kind {kind!r}; read it with a newer maskedclip")
    return kind


def joined(labels: Iterable[str], order: Sequence[str]) -> str:
    """Return the text of labels that are all in `order`."""
    present = {*labels}
    assert present <= {*order}, f"{present} are not all of {order}"
    return SEPARATOR.join(name for name in order if name in present)


def labels_in(text: str) -> list[str]:
    """Return the labels of a text; none of an empty one."""
    return text.split(SEPARATOR) if text else []


def number_text(value: float) -> str:
    """Return a number as it is stored: 57 for 57.0, and every digit of 0.1."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def is_number(text: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

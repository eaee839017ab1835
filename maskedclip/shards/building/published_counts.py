"""What was found against what was published: the counts tell a download that is half there."""

from collections.abc import Mapping, Sequence
from typing import Any


def compared(expected: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form in which a dataset is handed out that is nearest, and what differs from it.

    Args:
        expected: each a form with its number of images and, where they are known, of labelled ones,
            splits and labels (task, class, number); empty where nothing is known.
        found: `images` (files, also rejected ones), `labelled`, `splits` and `labels` of samples.

    Returns form and differences, lines such as "images: 300 of 516"; {} where nothing is expected.
    """
    if not expected:
        return {}
    nearest = min(expected, key=lambda form: abs(form["images"] - found["images"]))
    totals = [name for name in ("images", "labelled") if name in nearest]
    wanted = {name: {"": nearest[name]} for name in totals}
    there = {name: {"": found[name]} for name in totals}
    wanted["splits"], there["splits"] = nearest.get("splits", {}), found["splits"]
    wanted |= nearest.get("labels", {})
    there |= found["labels"]
    lines = []
    for what, numbers in wanted.items():
        present = there.get(what, {})
        differing = [name for name in numbers if present.get(name, 0) != numbers[name]]
        said = (f"{name} {present.get(name, 0):,} of {numbers[name]:,}" for name in differing)
        lines += [f"{what}: {', '.join(text.strip() for text in said)}"] if differing else []
    return {"form": nearest["form"], "differences": lines}

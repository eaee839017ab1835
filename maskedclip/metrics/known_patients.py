"""Of how many test images the patient is known: what intervals draw, as it stands under tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_FILE = re.compile(
    r"[0-9a-f]{64}"
)  # the sha256 that stands for the patient of an image without one


def counted(keys: Sequence[str], units: Sequence[str]) -> dict[str, int]:
    """Return the number of known patients, and of the images that they are of.

    Args:
        units: what the bootstrap draws: a patient, or where none is known the hash of the file (its
            copies are drawn together) or the key.
    """
    pairs = zip(keys, units, strict=True)
    known = [unit for key, unit in pairs if unit != key and not _FILE.fullmatch(unit)]
    return {"patients": len(set(known)), "with_patient": len(known)}


def drawn_in_words(row: Mapping[str, Any]) -> str:
    """Return what the intervals of a row of results draw where that is not only patients.

    "" where all patients are known, or an older row and its predictions do not say.
    """
    images, known = row.get("n"), row.get("with_patient")
    if not isinstance(images, int) or not isinstance(known, int) or known >= images:
        return ""
    if not known:
        return "patients unknown, intervals draw images"
    return (
        f"patients known of {known} of {images} test images, intervals draw the others one by one"
    )


def drawn_lines(named: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines under a table, of (test images, what `drawn_in_words` says of them)."""
    of: dict[str, list[str]] = {}
    for name, words in named:
        own = of.setdefault(words, [])
        own += [name] if name not in own else []
    return [f"{', '.join(names)}: {words}." for words, names in of.items() if words]


def images_in_words(keys: Sequence[str], units: Sequence[str]) -> str:
    """Return the images of a test split and their patients, as "185 images of 103 patients"."""
    facts = counted(keys, units)
    unlike = drawn_in_words(facts | {"n": len(keys)})
    if not unlike:
        return f"{len(keys)} images of {facts['patients']} patients"
    of = f" of {facts['patients']} patients and unknown ones" if facts["patients"] else ""
    return f"{len(keys)} images{of} ({unlike})"

"""The size and the colours that a network saw the images in, as they stand under every table."""

from collections.abc import Iterable, Mapping
from typing import Any

_COLOURS = {
    "imagenet": "ImageNet's colours",
    "clip": "CLIP's colours",
    "half": "colours from -1 to 1",
    "none": "colours from 0 to 1",
}
_NOT_STATED = "size not stated by the version that measured it"


def in_words(row: Mapping[str, Any]) -> str:
    """Return "224 px, ImageNet's colours" of a row of results; "" where an older one does not say.

    Colours are the mean and deviation that images are normalised with: those that networks of
    ImageNet and of CLIP expect, 0.5 and 0.5, or none.
    """
    if members := row.get("members"):  # of an ensemble
        return " beside ".join(dict.fromkeys(map(in_words, members)))
    size, colours = row.get("image_size"), row.get("colours")
    if not size or not colours:
        return ""
    return f"{size} px, {_COLOURS.get(colours, f'colours of {colours}')}"


def input_lines(named: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines under a table, of (method, what `in_words` says) for each of its results.

    One where all methods saw the same; else who saw what, since that is a difference, too. None
    where no result says it.
    """
    methods: dict[str, list[str]] = {}
    for name, words in named:
        own = methods.setdefault(words, [])
        own += [name] if name not in own else []
    stated = [words for words in methods if words]
    if not stated:
        return []
    if len(methods) == 1:
        return [f"{stated[0]}."]
    parts = [f"{', '.join(names)}: {words or _NOT_STATED}" for words, names in methods.items()]
    return [f"Images were not seen alike. {'; '.join(parts)}."]

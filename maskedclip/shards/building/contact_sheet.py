"""Contact sheet of a dataset: random samples, and those of the worst quality."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageDraw, ImageFont

from maskedclip.data.order import number
from maskedclip.data.storage.shard_writer import replacing
from maskedclip.data.storage.shards import Shards

FILE = "contact_sheet.png"
COLUMNS, ROWS = 6, 4  # of the random samples; the worst have a row a reason
_TILE, _GAP, _LINE = 160, 6, 12  # pixels
# how a quality of a photograph (quality.py) is called
_VALUES = {
    "dark": "brightness", "over-exposed": "not clipped", "blurred": "sharpness",
    "cut off": "of a full disc",
}  # fmt: skip
_LINES = 5  # of what is known of a photograph, at most: a report may be long


class SampleTile(NamedTuple):
    """One photograph, and below it the name of its file, its key and what is known of it."""

    image_HWC: np.ndarray
    lines: tuple[str, ...]


def write_contact_sheet(shards: Shards, path: Path) -> None:
    """Write a PNG of random samples and those of the worst quality; the bytes are deterministic.

    Raises DamagedSample where a sample of it is damaged.
    """
    index_of = {shards.key(index): index for index in range(len(shards))}
    drawn = sorted(index_of, key=lambda key: number("contact sheet", key))[: COLUMNS * ROWS]
    worst = shards.manifest.get("worst_looking", [])
    reasons = list(dict.fromkeys(entry["reason"] for entry in worst))
    rows = [
        (
            f"{shards.name}: {len(shards):,} samples, some of them at random",
            drawn,
            [""] * len(drawn),
        )
    ]
    for reason in reasons:
        shown = [entry for entry in worst if entry["reason"] == reason]
        name = _VALUES.get(reason, "value")
        values = [f"{name} {entry['value']:.3f}" for entry in shown]
        rows.append((f"worst: {reason}", [entry["key"] for entry in shown], values))
    parts: list[np.ndarray] = []
    for title, keys, notes in rows:
        parts.append(_line(title))
        tiles = [tile(shards, index_of[key], note) for key, note in zip(keys, notes, strict=True)]
        parts += [_row(tiles[first : first + COLUMNS]) for first in range(0, len(tiles), COLUMNS)]
    with replacing(path) as file:
        Image.fromarray(np.concatenate(parts)).save(
            file, "PNG", compress_level=2
        )  # 6 takes half a second


def tile(shards: Shards, index: int, note: str) -> SampleTile:
    """Return a sample as the sheet shows it, with its file's name, key and a note below."""
    jpeg, metadata = shards.read(index)
    image_HWC = simplejpeg.decode_jpeg(jpeg, "RGB", min_height=_TILE, min_width=_TILE, min_factor=1)
    texts = [*metadata["categories"], *metadata["labels"].values(), metadata["report"] or ""]
    kinds = shards.manifest.get("kinds", {})
    several = [text for task, text in metadata["labels"].items() if kinds.get(task) == "labels"]
    told = next(filter(None, several + texts), "")  # of several labels all, before what they mean
    key = shards.key(index)
    return SampleTile(image_HWC, (without_folders(metadata["source"] or ""), key, note, told))


def without_folders(source: str) -> str:
    """Return a path in the download without its folders, which may be called after patients."""
    folders, _, name = source.rpartition("/")
    return f".../{name}" if folders else name


def _row(tiles: Sequence[SampleTile]) -> np.ndarray:
    """Return a row of photographs with their lines below, white where there is none."""
    words = [[line for text in tile.lines if text for line in fitted(text)] for tile in tiles]
    below = _LINE * max(map(len, words)) + 4
    strip_HWC = np.full((_TILE + below + _GAP, COLUMNS * (_TILE + _GAP), 3), 255, np.uint8)
    for column, tile in enumerate(tiles):
        left = column * (_TILE + _GAP)
        small_HWC = cv2.resize(tile.image_HWC, (_TILE, _TILE), interpolation=cv2.INTER_AREA)
        strip_HWC[:_TILE, left : left + _TILE] = small_HWC
    return _written(
        strip_HWC,
        [
            ((column * (_TILE + _GAP), _TILE + 2 + _LINE * n), line)
            for column, lines in enumerate(words)
            for n, line in enumerate(lines)
        ],
    )


def fitted(text: str) -> list[str]:
    """Return a text in lines as wide as a photograph; what is left out of a long one is marked.

    A word that is longer, such as a path, goes on in the next line.
    """
    font, lines = _font(), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _TILE:
            lines[-1] = longer
            continue
        first, *rest = _pieces(word)
        lines = [*lines, first, *rest] if lines[-1] else [*lines[:-1], first, *rest]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"{lines[_LINES - 1]} ..."]
    return lines


def _pieces(word: str) -> list[str]:
    """Return a word in pieces as wide as a photograph."""
    font, pieces = _font(), [""]
    for character in word:
        if font.getlength(pieces[-1] + character) > _TILE:
            pieces.append("")
        pieces[-1] += character
    return pieces


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(11)


def _line(text: str) -> np.ndarray:
    return _written(np.full((20, COLUMNS * (_TILE + _GAP), 3), 255, np.uint8), [((2, 4), text)])


def _written(image_HWC: np.ndarray, words: Iterable[tuple[tuple[int, int], str]]) -> np.ndarray:
    image = Image.fromarray(image_HWC)
    pen, font = ImageDraw.Draw(image), _font()
    for position, text in words:
        pen.text(position, text, fill=(0, 0, 0), font=font)
    return np.asarray(image)

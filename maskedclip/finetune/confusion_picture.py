"""The confusion matrix of a test split as a picture for TensorBoard, drawn in milliseconds."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CELL, _MARGIN, _TEXT = 56, 14, 15  # pixels
_SMALL = 24  # of a cell, from so many classes on that numbers have no room
_MOST_WITH_NUMBERS = 16
_INK, _PAPER, _FULL = (27, 39, 51), (255, 255, 255), (19, 84, 140)
_LONGEST = 40  # characters of a class


def confusion_png(count_YY: np.ndarray, classes: Sequence[str]) -> tuple[bytes, tuple[int, int]]:
    """Return (png, (width, height)): counts, each row shaded by its share of the true class."""
    font = ImageFont.load_default(_TEXT)
    cell = _CELL if len(classes) <= _MOST_WITH_NUMBERS else _SMALL
    names = [_cut(name if name == str(y) else f"{y} {name}") for y, name in enumerate(classes)]
    left = int(max(font.getlength(name) for name in names)) + 2 * _MARGIN
    top = 3 * _TEXT + _MARGIN
    side = cell * len(classes)
    size = (max(left + side + _MARGIN, 420), top + side + _MARGIN)
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 6), "rows: the true class; columns: the predicted one", _INK, font)
    share_YY = count_YY / np.maximum(1, count_YY.sum(axis=1, keepdims=True))
    for y, name in enumerate(names):
        draw.text((_MARGIN, top + (y + 0.5) * cell), name, _INK, font, anchor="lm")
        draw.text((left + (y + 0.5) * cell, top - 4), str(y), _INK, font, anchor="ms")
    for (row, column), share in np.ndenumerate(share_YY):
        x, y = left + column * cell, top + row * cell
        colour = tuple(round(p + (f - p) * share) for p, f in zip(_PAPER, _FULL, strict=True))
        draw.rectangle((x, y, x + cell, y + cell), fill=colour, outline=(221, 227, 233))
        if cell == _CELL:
            ink = _PAPER if share > 0.5 else _INK
            middle = (x + cell / 2, y + cell / 2)
            draw.text(middle, str(count_YY[row, column]), ink, font, anchor="mm")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue(), size


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"

"""A picture of pairs side by side, for a person to look at."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from maskedclip.data.storage.shard_writer import replacing
from maskedclip.shards.near_duplicates.descriptors import decode_square

_SIDE, _LINE, _COLUMNS = 192, 15, 4  # pixels, pixels, pairs


class Tile(NamedTuple):
    """Two photographs and up to three lines below them."""

    jpegs: tuple[Callable[[], bytes], Callable[[], bytes]]
    lines: Sequence[str]


def write_sheet(path: Path, tiles: Sequence[Tile]) -> None:
    """Write a PNG of the pairs, four in a row."""
    drawn = [_draw(tile) for tile in tiles]
    drawn += [np.zeros_like(drawn[0])] * (-len(drawn) % _COLUMNS)
    rows = [np.hstack(drawn[i : i + _COLUMNS]) for i in range(0, len(drawn), _COLUMNS)]
    written, content = cv2.imencode(".png", np.vstack(rows)[..., ::-1])
    assert written
    with replacing(path) as file:
        file.write(content.tobytes())


def _draw(tile: Tile) -> np.ndarray:
    pair_HWC = np.hstack([decode_square(read(), _SIDE) for read in tile.jpegs])
    below_HWC = np.zeros((3 * _LINE + 8, 2 * _SIDE, 3), np.uint8)
    for number, line in enumerate(tile.lines[:3]):
        text = line.encode("ascii", "replace").decode()[:58]
        place = (3, (number + 1) * _LINE)
        cv2.putText(
            below_HWC, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA
        )
    return np.pad(np.vstack([pair_HWC, below_HWC]), ((0, 0), (0, 6), (0, 0)))

"""Pairs of copies as a table and as a picture."""

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from maskedclip.data.storage.shard_writer import replacing
from maskedclip.shards.checks.shard import read_jpeg
from maskedclip.shards.near_duplicates.descriptors import decode_square
from maskedclip.shards.near_duplicates.leakage import Pair

SHOWN = 40  # pairs on a sheet
_COLUMNS = [
    "kind", "where",
    *(f"{name}_a" for name in ("dataset", "split", "key", "source", "labels")),
    *(f"{name}_b" for name in ("dataset", "split", "key", "source", "labels")),
    "score", "angle", "mirrored", "scale", "labels_agree", "drop", "remark",
]  # fmt: skip


def write_csv(path: Path, pairs: Sequence[Pair]) -> None:
    """Write a line a pair."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(pair) for pair in pairs)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def _row(pair: Pair) -> dict[str, object]:
    copy, agree = pair.copy, pair.labels_agree
    row: dict[str, object] = {"kind": pair.kind, "where": pair.place}
    for side, member in (("a", pair.one), ("b", pair.other)):
        metadata = member.sample.metadata
        row |= {
            f"dataset_{side}": member.dataset.name,
            f"split_{side}": metadata.split or "",
            f"key_{side}": member.sample.key,
            f"source_{side}": metadata.source,
            f"labels_{side}": ";".join(f"{k}={v}" for k, v in sorted(metadata.labels.items())),
        }
    return row | {
        "score": f"{copy.score:.3f}" if copy else "",
        "angle": f"{copy.angle:.1f}" if copy else "",
        "mirrored": ("yes" if copy.mirrored else "no") if copy else "",
        "scale": f"{copy.scale:.3f}" if copy else "",
        "labels_agree": "" if agree is None else ("yes" if agree else "no"),
        "drop": ";".join(member.name for member in pair.losers),
        "remark": copy.reason if copy else "",
    }


def write_pictures(path: Path, pairs: Sequence[Pair]) -> None:
    """Write a sheet of the first pairs; none, and no earlier one is left, where there are none."""
    path.unlink(missing_ok=True)  # of an earlier check
    tiles = []
    for pair in pairs[:SHOWN]:
        row, sides = _row(pair), (pair.one, pair.other)
        names = [f"{m.dataset.name} {m.sample.metadata.split or ''} " for m in sides]
        tails = [
            m.sample.metadata.source[-(55 - len(n)) :] for m, n in zip(sides, names, strict=True)
        ]
        differ = " LABELS DIFFER" if pair.labels_agree is False else ""
        turned = f" {row['score']} {row['angle']} deg" if pair.copy else ""
        mirrored = " mirrored" if pair.copy and pair.copy.mirrored else ""
        reads = [partial(read_jpeg, m.dataset.directory, m.sample) for m in sides]
        lines = [f"{pair.kind}{turned}{mirrored}{differ} {row['remark']}"]
        lines += [name + tail for name, tail in zip(names, tails, strict=True)]
        tiles.append(PairTile((reads[0], reads[1]), lines))
    if tiles:
        write_sheet(path, tiles)


_SIDE, _LINE, _IN_A_ROW = 192, 15, 4  # pixels, pixels, pairs


class PairTile(NamedTuple):
    """Two photographs and up to three lines below them."""

    jpegs: tuple[Callable[[], bytes], Callable[[], bytes]]
    lines: Sequence[str]


def write_sheet(path: Path, tiles: Sequence[PairTile]) -> None:
    """Write a PNG of the pairs, four in a row."""
    drawn = [_draw(tile) for tile in tiles]
    drawn += [np.zeros_like(drawn[0])] * (-len(drawn) % _IN_A_ROW)
    rows = [np.hstack(drawn[i : i + _IN_A_ROW]) for i in range(0, len(drawn), _IN_A_ROW)]
    written, content = cv2.imencode(".png", np.vstack(rows)[..., ::-1])
    assert written
    with replacing(path) as file:
        file.write(content.tobytes())


def _draw(tile: PairTile) -> np.ndarray:
    pair_HWC = np.hstack([decode_square(read(), _SIDE) for read in tile.jpegs])
    below_HWC = np.zeros((3 * _LINE + 8, 2 * _SIDE, 3), np.uint8)
    for number, line in enumerate(tile.lines[:3]):
        text = line.encode("ascii", "replace").decode()[:58]
        place = (3, (number + 1) * _LINE)
        cv2.putText(
            below_HWC, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA
        )
    return np.pad(np.vstack([pair_HWC, below_HWC]), ((0, 0), (0, 6), (0, 0)))

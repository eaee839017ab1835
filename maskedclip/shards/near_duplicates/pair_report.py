"""Pairs of duplicates as a CSV and as an image, side by side."""

import csv
import io
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from maskedclip.data.csv_files import UnixLines, csv_rows
from maskedclip.data.storage.shard_writer import replacing
from maskedclip.data.together import Together
from maskedclip.metrics.cells import safe_path
from maskedclip.shards.building.contact_sheet import without_folders
from maskedclip.shards.checks.third_party import read_square
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
    writer = csv.DictWriter(UnixLines(text), _COLUMNS)
    writer.writeheader()
    paths = ("source_a", "source_b")
    for row in map(_row, pairs):
        writer.writerow({k: safe_path(str(v)) if k in paths else v for k, v in row.items()})
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def read_pairs(path: Path, dataset: str, keys: Collection[str]) -> list[Together]:
    """Return the copies and unclear pairs within a dataset that `write_csv` wrote.

    Raises ValueError, in one line, where the file is no such table or names unknown samples.
    """
    fix = f"check the dataset again with tools/check_shards.py --out={path.parent}"
    try:
        heading, *lines = csv_rows(path)
    except FileNotFoundError:
        raise ValueError(f"--pairs {path}: no such file; give pairs.csv of check_shards") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"--pairs {path}: is not a CSV ({error}); {fix}") from None
    rows = [dict(zip(heading, line, strict=False)) for line in lines if line]
    if not {*_COLUMNS} <= {*heading} or not all(row.keys() >= {*_COLUMNS} for row in rows):
        raise ValueError(
            f"--pairs {path}: has a short row or begins with {','.join(heading)[:60]!r}; {fix}"
        )
    found = []
    for row in rows:
        if row["kind"] == "patient" or not row["dataset_a"] == row["dataset_b"] == dataset:
            continue
        unknown = [row[name] for name in ("key_a", "key_b") if row[name] not in keys]
        if unknown:
            raise ValueError(f"--pairs {path}: {dataset} has no sample {unknown[0][:40]!r}; {fix}")
        one, other = sorted((row["key_a"], row["key_b"]))
        found.append(Together(one, other, row["kind"]))
    return found


def _row(pair: Pair) -> dict[str, object]:
    match, agree = pair.match, pair.labels_agree
    row: dict[str, object] = {"kind": pair.kind, "where": pair.relation}
    for side, checked in (("a", pair.one), ("b", pair.other)):
        metadata = checked.sample.metadata
        row |= {
            f"dataset_{side}": checked.dataset.name,
            f"split_{side}": metadata.split or "",
            f"key_{side}": checked.sample.key,
            f"source_{side}": metadata.source,
            f"labels_{side}": ";".join(f"{k}={v}" for k, v in sorted(metadata.labels.items())),
        }
    return row | {
        "score": f"{match.score:.3f}" if match else "",
        "angle": f"{match.angle:.1f}" if match else "",
        "mirrored": ("yes" if match.mirrored else "no") if match else "",
        "scale": f"{match.scale:.3f}" if match else "",
        "labels_agree": "" if agree is None else ("yes" if agree else "no"),
        "drop": ";".join(loser.name for loser in pair.losers),
        "remark": match.reason if match else "",
    }


def write_images(path: Path, pairs: Sequence[Pair]) -> None:
    """Write a PNG of the first pairs; where there is none, only remove that of an earlier check."""
    path.unlink(missing_ok=True)  # of an earlier check
    tiles = []
    for pair in pairs[:SHOWN]:
        row, sides = _row(pair), (pair.one, pair.other)
        names = [f"{m.dataset.name} {m.sample.metadata.split or ''} " for m in sides]
        texts = [f"{m.sample.key} {without_folders(m.sample.metadata.source)}" for m in sides]
        differ = " LABELS DIFFER" if pair.labels_agree is False else ""
        turned = f" {row['score']} {row['angle']} deg" if pair.match else ""
        mirrored = " mirrored" if pair.match and pair.match.mirrored else ""
        reads = [partial(read_square, m.dataset.directory, m.sample) for m in sides]
        lines = [f"{pair.kind}{turned}{mirrored}{differ} {row['remark']}"]
        lines += [f"{name}{text}"[:_WIDE] for name, text in zip(names, texts, strict=True)]
        tiles.append(PairTile((reads[0], reads[1]), lines))
    if tiles:
        write_sheet(path, tiles)


_SIDE, _LINE, _IN_A_ROW, _WIDE = 192, 15, 4, 55  # pixels, pixels, pairs, characters


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
        origin = (3, (number + 1) * _LINE)
        cv2.putText(
            below_HWC, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA
        )
    return np.pad(np.vstack([pair_HWC, below_HWC]), ((0, 0), (0, 6), (0, 0)))

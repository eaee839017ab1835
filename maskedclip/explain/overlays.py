"""Where a network looks, as maps over the photographs that it was shown."""

import csv
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskedclip.data.labelled_views import RESIZE, picture, preparation
from maskedclip.data.order import number
from maskedclip.data.photographs.field_of_view import find_field
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.transforms import MEAN, STD
from maskedclip.explain.command import ExplainConfig
from maskedclip.explain.maps import Map, ask, maps_of
from maskedclip.explain.pictures import Box, Words, write_grid, write_overlay
from maskedclip.inference import load, name_of, opened
from maskedclip.metrics.results import file_name

logger = logging.getLogger(__name__)
MAPS, SHEET = "maps.csv", "contact_sheet.png"
UNITS = {
    "rollout": "attention rollout: share of all tokens",
    "cls": "attention of the class token: share",
    "relevance": "relevance: gradient x attention",
    "text": "cosine of patch and prompt",
}


class Photograph(NamedTuple):
    """A picture that is explained, and where it was found."""

    name: str
    image_HWC: np.ndarray  # whole, as it was opened
    field: Image.Image  # what is brought to the network's size
    corner: tuple[int, int]  # of the field in the whole picture: x, y
    known: str  # findings or labels of a dataset


def explain(config: ExplainConfig) -> Path:
    """Write an overlay a map, a contact sheet and maps.csv; return their directory.

    Raises ValueError for weights, images, methods, prompts or classes that cannot serve.
    """
    model = load(config.weights)
    question = ask(model, config.methods, config.prompts, config.classes)
    out = place_of(config)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, np.ndarray, list[tuple[str, np.ndarray]]]] = []
    lines: list[list[str | int | float]] = []
    total, start = len(config.images) or config.count, time.monotonic()
    for photograph in _photographs(config):
        image_CHW = model.prepare(photograph.field)
        found = maps_of(model, image_CHW[None], question)
        seen_HWC = as_seen(image_CHW, model.preparation.mean, model.preparation.std)
        box = _seen_box(photograph, model.image_size, model.preparation.resize)
        for each in found:
            among = "classes" if model.classes else "prompts"
            _write(out, photograph, box, seen_HWC, each, among)
            lines += _lines(photograph.name, box, each)
        label = f"{photograph.name[-28:]}\n{photograph.known.partition(',')[0][:32]}".strip()
        rows.append((label, seen_HWC, [(_short(each), each.value_RC) for each in found]))
        left = (time.monotonic() - start) / len(rows) * (total - len(rows))
        sys.stderr.write(f"image {len(rows)}/{total}  {photograph.name}  {left:.0f} s left\n")
    if not rows:
        raise RuntimeError(f"{config.dataset}: no image can be read; check the shards")
    write_grid(out / SHEET, f"{name_of(config.weights)}: each map has its own range", rows)
    _write_table(out / MAPS, lines)
    sys.stdout.write(
        f"{len(rows)} images, {len(lines):,} values; see {out / SHEET}\n"
        f"do the maps point at lesions: python -m maskedclip.explain {config.weights} "
        f"--phantoms 300\n"
    )
    return out


def as_seen(
    image_CHW: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> np.ndarray:
    """Return the uint8 pixels of a normalised image."""
    mean_C11, deviation_C11 = (torch.tensor(values)[:, None, None] for values in (mean, std))
    pixel_CHW = (image_CHW * deviation_C11 + mean_C11).clamp(0, 1) * 255
    return pixel_CHW.round().byte().permute(1, 2, 0).numpy()


def box_seen(width: int, height: int, image_size: int, resized: float = RESIZE) -> Box:
    """Return the part of a picture that `preparation` keeps, in the picture's pixels."""
    prepare = preparation(image_size, resize=resized)
    resize, crop = prepare.transforms[:2]  # type: ignore[attr-defined]
    shorter = min(width, height)
    # torchvision: the longer side is rounded down, and the crop to the nearest pixel
    wide, high = (int(resize.size * side / shorter) for side in (width, height))
    left, top = (round((side - crop.size[0]) / 2) for side in (wide, high))
    across, down = width / wide, height / high
    return Box(left * across, top * down, (left + image_size) * across, (top + image_size) * down)


def _seen_box(photograph: Photograph, image_size: int, resized: float) -> Box:
    box = box_seen(photograph.field.width, photograph.field.height, image_size, resized)
    x, y = photograph.corner
    return Box(box.left + x, box.top + y, box.right + x, box.bottom + y)


def _photographs(config: ExplainConfig) -> Iterator[Photograph]:
    for path in config.images:
        whole = opened(path, field_of_view=False)
        corner, field = (0, 0), whole
        if config.field_of_view:
            field = opened(whole, field_of_view=True)
            found = find_field(np.asarray(whole))
            corner = (
                found.left - (field.width - found.width) // 2,
                found.top - (field.height - found.height) // 2,
            )
        yield Photograph(Path(path).name, np.asarray(whole), field, corner, "")
    if config.dataset:
        yield from _drawn(Shards(Path(config.dataset)), config.count)


def _drawn(dataset: Shards, count: int) -> Iterator[Photograph]:
    """Yield `count` samples drawn by their keys, of the test split where there is one."""
    order = sorted(range(len(dataset)), key=lambda index: number("explain", dataset.key(index)))
    facts = {}
    for index in order:
        if index in dataset.excluded:
            continue
        try:
            facts[index] = dataset.metadata(index)
        except DamagedSample as damage:
            logger.warning("%s; it is left out", damage)
    tested = [index for index in facts if "test" in (facts[index]["split"] or "")]
    for index in (tested or list(facts))[:count]:
        try:
            image = picture(dataset, index)
        except DamagedSample as damage:
            logger.warning("%s; it is left out", damage)
            continue
        known = ", ".join(facts[index]["categories"] or facts[index]["labels"].values())
        yield Photograph(dataset.key(index), np.asarray(image), image, (0, 0), known)


def place_of(config: ExplainConfig) -> Path:
    given = Path(config.weights)
    run = given if given.is_dir() else Path("runs") / name_of(given)
    return Path(config.out) if config.out else run / "explain"


def _title(found: Map, between: str) -> str:
    return found.method + (between + found.about if found.about else "")


def _short(found: Map) -> str:
    share = "" if found.probability is None else f" {found.probability:.0%}"
    return _title(found, "\n") + share


def _write(
    out: Path, photograph: Photograph, box: Box, seen_HWC: np.ndarray, found: Map, among: str
) -> None:
    title = _title(found, ": ")
    if found.probability is not None:
        title += f"\nprobability {found.probability:.0%} among the {among}"
    words = Words(title, f"{photograph.name}\n{photograph.known}".strip(), UNITS[found.method])
    stem = Path(photograph.name).stem
    path = out / f"{file_name(stem, found.method, found.about)}.png"
    write_overlay(path, photograph.image_HWC, box, seen_HWC, found.value_RC, words)
    if found.head_HRC is not None:
        heads = [(f"head {head + 1}", map_RC) for head, map_RC in enumerate(found.head_HRC)]
        write_grid(
            out / f"{file_name(stem, found.method, 'heads')}.png",
            f"{photograph.name}: attention of the class token, last block of the encoder",
            [("as seen", seen_HWC, [("mean", found.value_RC), *heads])],
        )


def _lines(name: str, box: Box, found: Map) -> list[list[str | int | float]]:
    """Return a line a patch: its value, and its place in the picture's pixels."""
    maps = [(found.about, found.value_RC)]
    if found.head_HRC is not None:
        maps = [("mean", found.value_RC)]
        maps += [(f"head {head + 1}", map_RC) for head, map_RC in enumerate(found.head_HRC)]
    lines: list[list[str | int | float]] = []
    for about, map_RC in maps:
        across = (box.right - box.left) / map_RC.shape[1]
        down = (box.bottom - box.top) / map_RC.shape[0]
        for (row, column), value in np.ndenumerate(map_RC):
            left, top = box.left + column * across, box.top + row * down
            place = (round(side, 2) for side in (left, top, left + across, top + down))
            lines.append([name, found.method, about, row, column, f"{value:.6g}", *place])
    return lines


def _write_table(path: Path, lines: Sequence[Sequence[str | int | float]]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["image", "method", "about", "row", "column", "value", "left", "top", "right", "bottom"]
        )
        writer.writerows(lines)
    temporary.replace(path)

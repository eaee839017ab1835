"""Attention and relevance maps drawn over the photographs that a network was given.

Heat is blue to white, colours that a fundus does not have. The lower half of a map's patches is not
painted: colours go from the median to the highest value, and the colour bar shows both.
"""

import csv
import logging
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from maskedclip.data.csv_files import UnixLines
from maskedclip.data.labelled_views import RESIZE, preparation, sample_image
from maskedclip.data.order import number
from maskedclip.data.photographs.field_of_view import find_field
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.transforms import MEAN, STD
from maskedclip.explain.command import ExplainConfig
from maskedclip.explain.maps import Map, maps_of, request_maps
from maskedclip.inference import load, read_image
from maskedclip.metrics.cells import safe_path, safe_text
from maskedclip.metrics.results import file_name
from maskedclip.models.checkpoints.files import name_of
from maskedclip.models.checkpoints.formats import Preparation

logger = logging.getLogger(__name__)
_LONGEST = 60  # characters of a path in a caption
MAPS_CSV, CONTACT_SHEET = "maps.csv", "contact_sheet.png"
UNITS = {
    "rollout": "attention rollout: share of all tokens",
    "cls": "attention of the class token: share",
    "relevance": "relevance: gradient x attention",
    "text": "cosine of patch and prompt",
}
HEAT = LinearSegmentedColormap.from_list("heat", ["#0018a8", "#0090ff", "#00f0e0", "#f4ffff"])
_STRONGEST = 0.7  # of the heat's colour over the photograph's
_CONTOURS = (0.5, 0.8)  # of a map's range, from its median to its highest
_RESOLUTION = 110  # dots per inch
_SIDE, _LETTERS = 2.2, 38  # of a picture of the sheet: inches, and characters of a line above it
_LEGEND = (
    "Heat: each map from its own median, below which nothing is painted, to its highest value; maps"
    " of other methods have other units, and colours of two maps are not to be compared. White"
    " lines: 50 % (thin) and 80 % (thick) of that range. Ring: the patch with the highest value."
)
_PLAIN_TEXT: dict[Any, Any] = {
    "text.parse_math": False
}  # $ in a name of a file or class begins no formula


class CropBox(NamedTuple):
    """The part of a photograph that the network saw, in its pixels; may reach over the edge."""

    left: float
    top: float
    right: float
    bottom: float


class InputImage(NamedTuple):
    """A photograph that is explained."""

    name: str  # of the file, or the key of a sample
    source: str  # path as it was given, or in the download
    image_HWC: np.ndarray  # whole, as it was opened
    field: Image.Image  # what is resized for the network
    corner: tuple[int, int]  # of the field in the whole photograph: x, y
    known: str  # findings or labels of a dataset


def explain(config: ExplainConfig) -> Path:
    """Write an overlay a map, a contact sheet and maps.csv; return their directory.

    Raises ValueError for weights, images, methods, prompts or classes that cannot be used.
    """
    model = load(config.weights)
    request = request_maps(model, config.methods, config.prompts, config.classes)
    out = output_directory(config)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, np.ndarray, list[tuple[str, np.ndarray]]]] = []
    lines: list[list[str | int | float]] = []
    total, start = len(config.images) or config.count, time.monotonic()
    for photograph in _input_images(config):
        image_CHW = model.prepare(photograph.field)
        maps = maps_of(model, image_CHW[None], request)
        seen_HWC = as_seen(image_CHW, model.preparation.mean, model.preparation.std)
        box = _shown_box(photograph, model.preparation)
        for drawn in maps:
            among = "classes" if model.classes else "prompts"
            _write(out, photograph, box, seen_HWC, drawn, among)
            lines += _lines(photograph, box, drawn)
        label = f"{_captioned(photograph)}\n{photograph.known}".strip()
        rows.append((label, seen_HWC, [(_short(drawn), drawn.value_RC) for drawn in maps]))
        left = (time.monotonic() - start) / len(rows) * (total - len(rows))
        sys.stderr.write(f"image {len(rows)}/{total}  {photograph.name}  {left:.0f} s left\n")
    if not rows:
        raise RuntimeError(f"{config.dataset}: no image can be read; check the shards")
    write_grid(out / CONTACT_SHEET, name_of(config.weights), rows)
    _write_table(out / MAPS_CSV, lines)
    sys.stdout.write(
        f"{len(rows)} images, {len(lines):,} values; see {out / CONTACT_SHEET}\n"
        f"do the maps point at lesions: python -m maskedclip.explain {quote(str(config.weights))} "
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


def center_crop_box(width: int, height: int, image_size: int, resized: float = RESIZE) -> CropBox:
    """Return the part of a photograph that `preparation` keeps, in the photograph's pixels."""
    prepare = preparation(image_size, resize=resized)
    resize, crop = prepare.transforms[:2]  # type: ignore[attr-defined]
    shorter = min(width, height)
    # torchvision: the longer side is rounded down, and the crop to the nearest pixel
    wide, high = (int(resize.size * side / shorter) for side in (width, height))
    left, top = (round((side - crop.size[0]) / 2) for side in (wide, high))
    across, down = width / wide, height / high
    return CropBox(
        left * across, top * down, (left + image_size) * across, (top + image_size) * down
    )


def _shown_box(photograph: InputImage, shown: Preparation) -> CropBox:
    """Return the part of a photograph that the network sees, in the whole photograph's pixels."""
    width, height = photograph.field.size
    if shown.squash:
        box = CropBox(0, 0, width, height)
    elif shown.whole:
        box = CropBox(0, 0, max(width, height), max(width, height))
    else:
        box = center_crop_box(width, height, shown.image_size, shown.resize)
    x, y = photograph.corner
    return CropBox(box.left + x, box.top + y, box.right + x, box.bottom + y)


def _input_images(config: ExplainConfig) -> Iterator[InputImage]:
    for path in config.images:
        whole = read_image(path, field_of_view=False)
        corner, field = (0, 0), whole
        if config.field_of_view:
            field = read_image(whole, field_of_view=True)
            circle = find_field(np.asarray(whole))
            corner = (
                circle.left - (field.width - circle.width) // 2,
                circle.top - (field.height - circle.height) // 2,
            )
        yield InputImage(Path(path).name, str(path), np.asarray(whole), field, corner, "")
    if config.dataset:
        yield from _sampled(Shards(Path(config.dataset)), config.count)


def _sampled(dataset: Shards, count: int) -> Iterator[InputImage]:
    """Yield `count` samples by the hash of their keys, of the test split where there is one."""
    order = sorted(range(len(dataset)), key=lambda index: number("explain", dataset.key(index)))
    metadata = {}
    for index in order:
        if index in dataset.excluded:
            continue
        try:
            metadata[index] = dataset.metadata(index)
        except DamagedSample as damage:
            logger.warning("%s; it is left out", damage)
    of_test = [index for index in metadata if "test" in (metadata[index]["split"] or "")]
    for index in (of_test or list(metadata))[:count]:
        try:
            image = sample_image(dataset, index)
        except DamagedSample as damage:
            logger.warning("%s; it is left out", damage)
            continue
        known = ", ".join(metadata[index]["categories"] or metadata[index]["labels"].values())
        key = dataset.key(index)
        source = metadata[index]["source"] or key
        yield InputImage(key, source, np.asarray(image), image, (0, 0), known)


def output_directory(config: ExplainConfig) -> Path:
    given = Path(config.weights)
    run = given if given.is_dir() else Path("runs") / name_of(given)
    return Path(config.out) if config.out else run / "explain"


def _captioned(photograph: InputImage) -> str:
    """Return what a photograph is called in pictures: the end of its path."""
    source = photograph.source
    return source if len(source) <= _LONGEST else "..." + source[3 - _LONGEST :]


def _title(drawn: Map, between: str) -> str:
    return drawn.method + (between + drawn.about if drawn.about else "")


def _short(drawn: Map) -> str:
    share = "" if drawn.probability is None else f" {drawn.probability:.0%}"
    return _title(drawn, "\n") + share


def _write(
    out: Path, photograph: InputImage, box: CropBox, seen_HWC: np.ndarray, drawn: Map, among: str
) -> None:
    title = _title(drawn, ": ")
    if drawn.probability is not None:
        title += f"\nprobability {drawn.probability:.0%} among the {among}"
    stem = Path(photograph.name).stem
    write_overlay(
        out / f"{file_name(stem, drawn.method, drawn.about)}.png",
        photograph.image_HWC, box, seen_HWC, drawn.value_RC, title=title,
        caption=f"{_captioned(photograph)}\n{photograph.known}".strip(), unit=UNITS[drawn.method],
    )  # fmt: skip
    if drawn.head_HRC is not None:
        heads = [(f"head {head + 1}", map_RC) for head, map_RC in enumerate(drawn.head_HRC)]
        write_grid(
            out / f"{file_name(stem, drawn.method, 'heads')}.png",
            f"{photograph.name}: attention of the class token, last block of the encoder",
            [("as seen", seen_HWC, [("mean", drawn.value_RC), *heads])],
        )


def _lines(photograph: InputImage, box: CropBox, drawn: Map) -> list[list[str | int | float]]:
    """Return a line a patch: its value, and its corners in the photograph's pixels."""
    maps = [(drawn.about, drawn.value_RC)]
    if drawn.head_HRC is not None:
        maps = [("mean", drawn.value_RC)]
        maps += [(f"head {head + 1}", map_RC) for head, map_RC in enumerate(drawn.head_HRC)]
    lines: list[list[str | int | float]] = []
    for about, map_RC in maps:
        across = (box.right - box.left) / map_RC.shape[1]
        down = (box.bottom - box.top) / map_RC.shape[0]
        for (row, column), value in np.ndenumerate(map_RC):
            left, top = box.left + column * across, box.top + row * down
            corners = (round(side, 2) for side in (left, top, left + across, top + down))
            names = (safe_path(photograph.name), safe_path(photograph.source))
            lines.append(
                [*names, drawn.method, safe_text(about), row, column, f"{value:.6g}", *corners]
            )
    return lines


def _write_table(path: Path, lines: Sequence[Sequence[str | int | float]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(UnixLines(file))
        writer.writerow(
            [
                "image",
                "source",
                "method",
                "about",
                "row",
                "column",
                "value",
                "left",
                "top",
                "right",
                "bottom",
            ]
        )
        writer.writerows(lines)
    temporary.replace(path)


def enlarged(map_RC: np.ndarray, side: int) -> np.ndarray:
    """Return value_HW of `side` pixels, linear between the centres of the patches."""
    map_11RC = torch.from_numpy(np.ascontiguousarray(map_RC))[None, None]
    large = F.interpolate(map_11RC, size=(side, side), mode="bilinear", align_corners=False)
    return large[0, 0].numpy()


def heat(map_RC: np.ndarray) -> np.ndarray:
    """Return the map between 0, its median and below, and 1; 0 where it is the same everywhere."""
    low, high = _range(map_RC)
    return np.zeros_like(map_RC) if high <= low else np.clip((map_RC - low) / (high - low), 0, 1)


def _range(map_RC: np.ndarray) -> tuple[float, float]:
    return float(np.median(map_RC)), float(map_RC.max())


def overlay(image_HWC: np.ndarray, map_RC: np.ndarray) -> np.ndarray:
    """Return the square uint8 image with the map's heat over it."""
    heat_HW = enlarged(heat(map_RC), len(image_HWC))
    colour_HWC = HEAT(heat_HW)[..., :3]
    over_HW1 = _STRONGEST * heat_HW[..., None]
    mixed_HWC = (1 - over_HW1) * image_HWC / 255 + over_HW1 * colour_HWC
    return np.asarray((255 * mixed_HWC).round().astype(np.uint8))


@mpl.rc_context(_PLAIN_TEXT)
def write_overlay(
    path: Path,
    photograph_HWC: np.ndarray,
    box: CropBox,
    seen_HWC: np.ndarray,
    map_RC: np.ndarray,
    *,
    title: str,
    caption: str,
    unit: str,
) -> None:
    """Write a PNG: the photograph with the part that was seen, and that part with the map.

    Args:
        title: method, class or prompt, probability.
        caption: which photograph, and what is known of it.
        unit: of the map's values, at the colour bar.
    """
    figure = Figure(figsize=(9.6, 5.0), dpi=_RESOLUTION)
    # fixed positions: an automatic layout takes twice the time
    whole, mapped = (figure.add_axes((left, 0.02, 0.435, 0.835)) for left in (0.01, 0.46))
    beside = figure.add_axes((0.91, 0.08, 0.018, 0.7))
    whole.imshow(photograph_HWC, interpolation="antialiased")
    corner = (box.left - 0.5, box.top - 0.5)
    width, height = box.right - box.left, box.bottom - box.top
    frame = Rectangle(corner, width, height, fill=False, edgecolor="white", linestyle="--")
    whole.add_patch(frame)
    whole.set_title(f"{caption}\ndashed: what the network saw", fontsize=9)
    _paint(mapped, seen_HWC, map_RC)
    mapped.set_title(title, fontsize=10)
    for axes in (whole, mapped):
        axes.set_axis_off()
    scale = ScalarMappable(Normalize(*_range(map_RC)), HEAT)
    figure.colorbar(scale, cax=beside).set_label(unit, fontsize=8)
    beside.tick_params(labelsize=8)
    beside.ticklabel_format(axis="y", scilimits=(-2, 3))
    beside.yaxis.get_offset_text().set(fontsize=8, horizontalalignment="left")
    _save(figure, path)


@mpl.rc_context(_PLAIN_TEXT)
def write_grid(
    path: Path,
    title: str,
    rows: Sequence[tuple[str, np.ndarray, Sequence[tuple[str, np.ndarray]]]],
) -> None:
    """Write a PNG: a row an image, first as it was seen, then a column a map.

    Args:
        rows: the name of an image, its pixels, and its maps with their names.
    """
    columns = 1 + max(len(maps) for *_, maps in rows)
    names = [[wrapped(name), *(wrapped(about) for about, _ in maps)] for name, _, maps in rows]
    lines = max(name.count("\n") + 1 for row in names for name in row)
    wide = max(2, columns) * _SIDE
    heading = textwrap.fill(title, int(wide * 13))
    legend = textwrap.fill(_LEGEND, int(wide * 17))
    above = 0.1 + 0.16 * (heading.count("\n") + 1)  # inches, as all below
    below = 0.75 + 0.12 * (legend.count("\n") + 1)
    down = _SIDE + 0.08 + 0.125 * lines  # a row with its names
    high = above + down * len(rows) + below
    figure = Figure(figsize=(wide, high), dpi=_RESOLUTION)
    figure.text(0.5, 1 - 0.06 / high, heading, fontsize=10, ha="center", va="top")
    for place, (row, (_, seen_HWC, maps)) in enumerate(zip(names, rows, strict=True)):
        bottom = high - above - down * (place + 1)
        for column, name in enumerate(row):
            box = (column * _SIDE + 0.04, bottom, _SIDE - 0.08, _SIDE - 0.08)
            axes = figure.add_axes(tuple(np.divide(box, (wide, high, wide, high))))
            axes.set_axis_off()
            axes.set_title(name, fontsize=7, pad=3)
            if column:
                _paint(axes, seen_HWC, maps[column - 1][1])
            else:
                axes.imshow(seen_HWC)
    bar = figure.add_axes((0.3 / wide, (below - 0.35) / high, 2.2 / wide, 0.12 / high))
    figure.colorbar(ScalarMappable(Normalize(0, 1), HEAT), cax=bar, orientation="horizontal")
    bar.set_xticks([0, 1], ["median", "highest"], fontsize=7)
    figure.text(0.1 / wide, 0.08 / high, legend, fontsize=7, va="bottom")
    _save(figure, path)


def wrapped(name: str) -> str:
    """Return a name in as many lines as it takes above a picture of the sheet."""
    lines = [textwrap.wrap(line, _LETTERS) or [""] for line in name.split("\n")]
    return "\n".join(part for own in lines for part in own)


def _paint(axes: Axes, seen_HWC: np.ndarray, map_RC: np.ndarray) -> None:
    """Draw the map over the image, contours at parts of its range, a ring around its maximum."""
    axes.imshow(overlay(seen_HWC, map_RC), interpolation="antialiased")
    side, grid = len(seen_HWC), len(map_RC)
    heat_HW = enlarged(heat(map_RC), side)
    if heat_HW.max() > max(_CONTOURS):  # not of a map that is the same everywhere
        axes.contour(heat_HW, levels=_CONTOURS, colors="white", linewidths=(0.6, 1.2))
    row, column = np.unravel_index(int(map_RC.argmax()), map_RC.shape)
    patch = side / grid
    x, y = ((int(index) + 0.5) * patch - 0.5 for index in (column, row))
    axes.plot(x, y, "o", markersize=11, markerfacecolor="none", markeredgecolor="black", mew=2.4)
    axes.plot(x, y, "o", markersize=11, markerfacecolor="none", markeredgecolor="yellow", mew=1.2)


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)

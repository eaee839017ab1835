"""Maps of patches as pictures: heat over the photograph, which stays visible beneath it.

Heat is blue to white, the colours that a fundus does not have. The lower half of a map's patches is
not painted: colours go from the median to the highest value, and the colour bar tells both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn import functional as F

HEAT = LinearSegmentedColormap.from_list("heat", ["#0018a8", "#0090ff", "#00f0e0", "#f4ffff"])
_STRONGEST = 0.7  # of the heat's colour over the photograph's
_CONTOURS = (0.5, 0.8)  # of a map's range, from its median to its highest
_RESOLUTION = 110  # dots per inch


class Box(NamedTuple):
    """What the network saw of a picture, in its pixels; it may reach over the picture's edge."""

    left: float
    top: float
    right: float
    bottom: float


class Words(NamedTuple):
    """What is written on one overlay."""

    title: str  # method, class or prompt, probability
    image: str  # which photograph, and what is known of it
    unit: str  # of the map's values, at the colour bar


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


def write_overlay(
    path: Path,
    photograph_HWC: np.ndarray,
    box: Box,
    seen_HWC: np.ndarray,
    map_RC: np.ndarray,
    words: Words,
) -> None:
    """Write a PNG: the photograph with the part that was seen, and that part with the map."""
    figure = Figure(figsize=(9.6, 5.0), dpi=_RESOLUTION)
    # placed by hand: a layout that is worked out takes twice the time
    whole, mapped = (figure.add_axes((left, 0.02, 0.435, 0.835)) for left in (0.01, 0.46))
    beside = figure.add_axes((0.91, 0.08, 0.018, 0.7))
    whole.imshow(photograph_HWC, interpolation="antialiased")
    corner = (box.left - 0.5, box.top - 0.5)
    width, height = box.right - box.left, box.bottom - box.top
    frame = Rectangle(corner, width, height, fill=False, edgecolor="white", linestyle="--")
    whole.add_patch(frame)
    whole.set_title(f"{words.image}\ndashed: what the network saw", fontsize=9)
    _paint(mapped, seen_HWC, map_RC)
    mapped.set_title(words.title, fontsize=10)
    for axes in (whole, mapped):
        axes.set_axis_off()
    scale = ScalarMappable(Normalize(*_range(map_RC)), HEAT)
    figure.colorbar(scale, cax=beside).set_label(words.unit, fontsize=8)
    beside.tick_params(labelsize=8)
    beside.ticklabel_format(axis="y", scilimits=(-2, 3))
    beside.yaxis.get_offset_text().set(fontsize=8, horizontalalignment="left")
    _save(figure, path)


def write_grid(
    path: Path,
    title: str,
    rows: Sequence[tuple[str, np.ndarray, Sequence[tuple[str, np.ndarray]]]],
) -> None:
    """Write a PNG: a row an image, first as it was seen, then a column a map.

    Args:
        rows: what each image is called, its pixels, and its maps with their names.
    """
    columns = 1 + max(len(maps) for *_, maps in rows)
    wide, high = 2.2 * columns, 2.5 * len(rows) + 0.35
    figure = Figure(figsize=(wide, high), dpi=_RESOLUTION)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.7 / high, wspace=0.04, hspace=0.18)
    figure.suptitle(title, fontsize=10, y=1 - 0.08 / high, verticalalignment="top")
    for axes_C, (name, seen_HWC, maps) in zip(
        figure.subplots(len(rows), columns, squeeze=False), rows, strict=True
    ):
        for axes in axes_C:
            axes.set_axis_off()
        axes_C[0].imshow(seen_HWC)
        axes_C[0].set_title(name, fontsize=7)
        for axes, (about, map_RC) in zip(axes_C[1:], maps, strict=False):
            _paint(axes, seen_HWC, map_RC)
            axes.set_title(about, fontsize=7)
    _save(figure, path)


def _paint(axes: Axes, seen_HWC: np.ndarray, map_RC: np.ndarray) -> None:
    """Draw the map over the image, lines at parts of its range, and a ring about its highest."""
    axes.imshow(overlay(seen_HWC, map_RC), interpolation="antialiased")
    side, grid = len(seen_HWC), len(map_RC)
    heat_HW = enlarged(heat(map_RC), side)
    if heat_HW.max() > max(_CONTOURS):  # not of a map that is the same everywhere
        axes.contour(heat_HW, levels=_CONTOURS, colors="white", linewidths=(0.6, 1.2))
    row, column = np.unravel_index(int(map_RC.argmax()), map_RC.shape)
    patch = side / grid
    x, y = ((int(place) + 0.5) * patch - 0.5 for place in (column, row))
    axes.plot(x, y, "o", markersize=11, markerfacecolor="none", markeredgecolor="black", mew=2.4)
    axes.plot(x, y, "o", markersize=11, markerfacecolor="none", markeredgecolor="yellow", mew=1.2)


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)

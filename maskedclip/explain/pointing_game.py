"""The pointing game on phantoms: do a network's maps point at the lesions that were drawn?

A hit is a map whose highest patch lies on the lesion (Zhang et al., 2018). Two baselines: a random
patch, and the maps of the other images, which know where such lesions usually lie but not where
they lie in this image. Axes: K images or circles of a phantom, RC patches, N all patches.
"""

import csv
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from maskedclip.data.csv_files import UnixLines
from maskedclip.engine.whole_file import refuse_unwritable
from maskedclip.explain.command import ExplainConfig
from maskedclip.explain.maps import Map, MapRequest, maps_of, request_maps
from maskedclip.explain.overlays import center_crop_box, output_directory
from maskedclip.inference import load
from maskedclip.metrics.cells import safe_text
from maskedclip.metrics.results import in_columns
from maskedclip.shards.phantoms.phantom import Phantom, draw

TABLE = "pointing.csv"
FIRST = 5_000_000  # number of the first phantom: shards hold others
_ENOUGH = 10  # images below which a row is left out
_RESAMPLES = 2000


class Pointing(NamedTuple):
    """Shares of 0..1 with 95 % intervals by image."""

    images: int
    hit: float  # of the images' own maps
    low: float
    high: float
    chance: float  # of a patch drawn at random
    shuffled: float  # of the other images' maps
    gain: float  # hit - shuffled
    gain_low: float
    gain_high: float


def play(config: ExplainConfig) -> list[tuple[str, str, Pointing]]:
    """Write pointing.csv and print it: rows of (method, finding, result).

    A prompt is tried on the phantoms into which that finding was drawn, a class on those of that
    disease, whatever the network predicts for them, and a map of nothing in particular on all that
    have lesions. Lesions whose centre the network does not see are left out. A patch hits where its
    centre lies within half a patch's side of a lesion's edge. Raises ValueError where no requested
    finding was drawn into `_ENOUGH` phantoms.
    """
    refuse_unwritable("out", output_directory(config))
    model = load(config.weights)
    if config.untrained:
        reinitialise(model.network, config.untrained)
    request = request_maps(model, config.methods, config.prompts, config.classes)
    size = 2 * model.image_size
    games: defaultdict[tuple[str, str], tuple[list[np.ndarray], list[np.ndarray]]]
    games = defaultdict(lambda: ([], []))  # of a method and finding: its maps, the patches to hit
    start = time.monotonic()
    for count in range(config.phantoms):
        phantom = draw(FIRST + count, size)
        if phantom.lesions:
            image_CHW = model.prepare(Image.fromarray(phantom.image_HWC))
            own = request._replace(classes=_classes(phantom, model.classes))
            for drawn in maps_of(model, image_CHW[None], own):
                circles_K3 = _as_seen(_target(drawn, phantom, own), size, model.image_size)
                if len(circles_K3):
                    grid = len(drawn.value_RC)
                    patch = model.image_size // grid
                    maps, near = games[drawn.method, drawn.about or "any lesion"]
                    maps.append(drawn.value_RC)
                    near.append(near_patches(circles_K3, grid, patch, patch / 2))
        if (count + 1) % 50 == 0 or count + 1 == config.phantoms:
            left = (time.monotonic() - start) / (count + 1) * (config.phantoms - count - 1)
            sys.stderr.write(f"phantom {count + 1}/{config.phantoms}  {left:.0f} s left\n")
    rows = [
        (method, finding, pointing(maps, near))
        for (method, finding), (maps, near) in games.items()
        if len(maps) >= _ENOUGH
    ]
    if not rows:
        raise ValueError(f"--phantoms={config.phantoms}: too few have what is asked for; draw more")
    _write(output_directory(config), rows)
    sys.stdout.write(
        "what the picture alone gives: add --untrained=1, and 2, and 3: draws differ much\n"
        f"see the maps: python -m maskedclip.explain {quote(str(config.weights))} "
        "--images FILE,FILE\n"
    )
    return rows


def reinitialise(network: nn.Module, seed: int) -> None:
    """Draw the weights of all norms, linear maps and embeddings anew, in place."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()


def near_patches(circles_K3: np.ndarray, grid: int, patch: int, tolerance: float) -> np.ndarray:
    """Return near_RC: the patches whose centre lies in one of the circles or near its edge.

    Args:
        circles_K3: x, y and radius in pixels, pixel centres at whole numbers.
        tolerance: pixels between the edge of a circle and the centre of a patch.
    """
    centre_R = np.arange(grid) * patch + (patch - 1) / 2
    y_RC, x_RC = np.meshgrid(centre_R, centre_R, indexing="ij")
    x_K11, y_K11, radius_K11 = (column[:, None, None] for column in circles_K3.T)
    distance_KRC = np.hypot(x_RC - x_K11, y_RC - y_K11)
    return np.asarray((distance_KRC <= radius_K11 + tolerance).any(axis=0))


def pointing(maps: Sequence[np.ndarray], near: Sequence[np.ndarray], seed: int = 0) -> Pointing:
    """Play the game on two images or more: their map_RC and near_RC, in the same order.

    The bootstrap draws images; the other images' maps are all those that take part.
    """
    assert len(maps) == len(near) > 1
    hottest_K = np.array([map_RC.argmax() for map_RC in maps])
    near_KN = np.stack([near_RC.ravel() for near_RC in near])
    hit_KK = near_KN[:, hottest_K].astype(float)  # image, map
    own_K = np.diagonal(hit_KK)
    others_K = (hit_KK.sum(axis=1) - own_K) / (len(maps) - 1)
    drawn = np.random.default_rng(seed).integers(0, len(maps), (_RESAMPLES, len(maps)))
    low, high = np.quantile(own_K[drawn].mean(axis=1), (0.025, 0.975))
    gain_low, gain_high = np.quantile((own_K - others_K)[drawn].mean(axis=1), (0.025, 0.975))
    return Pointing(
        images=len(maps), hit=float(own_K.mean()), low=float(low), high=float(high),
        chance=float(near_KN.mean()), shuffled=float(others_K.mean()),
        gain=float((own_K - others_K).mean()), gain_low=float(gain_low), gain_high=float(gain_high),
    )  # fmt: skip


def _classes(phantom: Phantom, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the phantom's disease or grade as a fine-tuned head calls it, if it has that class."""
    truth = phantom.labels["disease"], phantom.labels["diabetic_retinopathy"]
    return tuple(name for name in truth if name in classes and name != "0")[:1]


def _target(drawn: Map, phantom: Phantom, request: MapRequest) -> np.ndarray:
    """Return circles_K3 of what the map should point at, none where that was not drawn."""
    groups = phantom.lesions
    if drawn.about and drawn.about not in request.classes:  # a prompt, or another class
        groups = {name: groups[name] for name in groups if name == drawn.about}
    return np.array([circle for group in groups.values() for circle in group]).reshape(-1, 3)


def _as_seen(circles_K3: np.ndarray, size: int, image_size: int) -> np.ndarray:
    """Return the circles in the network's pixels, those whose centre it sees."""
    box = center_crop_box(size, size, image_size)
    scale = image_size / (box.right - box.left)
    x_K, y_K, radius_K = circles_K3.T
    # pixel centres are at whole numbers, edges half a pixel before
    x_K, y_K = ((x_K + 0.5 - box.left) * scale - 0.5, (y_K + 0.5 - box.top) * scale - 0.5)
    inside_K = (np.minimum(x_K, y_K) >= 0) & (np.maximum(x_K, y_K) <= image_size - 1)
    return np.stack([x_K, y_K, radius_K * scale], axis=1)[inside_K]


def _write(out: Path, rows: list[tuple[str, str, Pointing]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / TABLE).open("w", newline="") as file:
        writer = csv.writer(UnixLines(file))
        writer.writerow(["method", "finding", *Pointing._fields])
        writer.writerows([method, safe_text(finding), *result] for method, finding, result in rows)
    table: list[tuple[str, ...]] = [
        (
            "method",
            "finding",
            "images",
            "hits [95 %]",
            "random patch",
            "others' maps",
            "gain [95 %]",
        )
    ]
    for method, finding, p in rows:
        hits = f"{100 * p.hit:.1f} [{100 * p.low:.1f}, {100 * p.high:.1f}]"
        gain = f"{100 * p.gain:+.1f} [{100 * p.gain_low:+.1f}, {100 * p.gain_high:+.1f}]"
        baselines = (f"{100 * p.chance:.1f}", f"{100 * p.shuffled:.1f}")
        table.append((method, finding, str(p.images), hits, *baselines, gain))
    sys.stdout.write(in_columns(table))
    sys.stdout.write(f"per cent; tolerance half a patch; see {out / TABLE}\n")

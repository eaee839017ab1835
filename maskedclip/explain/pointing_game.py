"""The pointing game on phantoms: do a network's maps point at the lesions that were drawn?"""

import csv
import logging
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from maskedclip.explain.command import ExplainConfig
from maskedclip.explain.maps import Map, Question, ask, maps_of
from maskedclip.explain.overlays import box_seen, place_of
from maskedclip.explain.pointing_score import Pointing, near_patches, pointing
from maskedclip.inference import load
from maskedclip.shards.phantoms.phantom import Phantom, draw

logger = logging.getLogger(__name__)
TABLE = "pointing.csv"
FIRST = 5_000_000  # number of the first phantom: shards hold others
_ENOUGH = 10  # images below which a row is left out


class Turn(NamedTuple):
    """One map and what it should point at."""

    map_RC: np.ndarray
    near_RC: np.ndarray


def play(config: ExplainConfig) -> list[tuple[str, str, Pointing]]:
    """Write pointing.csv and print it: a row (method, what is to be found, result) each.

    A prompt is tried on the phantoms into which that finding was drawn, a class on those of that
    disease, whatever the network says of them, and a map of nothing in particular on all that have
    lesions. Lesions whose middle the network does not see are left out. A patch hits where its
    centre lies within half a patch's side of a lesion's edge. Raises ValueError where nothing that
    is asked for was drawn into `_ENOUGH` phantoms.
    """
    model = load(config.weights)
    if config.untrained:
        forget(model.network, config.untrained)
    asked = ask(model, config.methods, config.prompts, config.classes)
    prepare, size = model.prepare, 2 * model.image_size
    turns: defaultdict[tuple[str, str], list[Turn]] = defaultdict(list)
    start = time.monotonic()
    for count in range(config.phantoms):
        phantom = draw(FIRST + count, size)
        if phantom.lesions:
            image_CHW = prepare(Image.fromarray(phantom.image_HWC))
            question = asked._replace(classes=_classes(phantom, model.classes))
            for found in maps_of(model, image_CHW[None], question):
                circles_K3 = _as_seen(_target(found, phantom, question), size, model.image_size)
                if len(circles_K3):
                    grid = len(found.value_RC)
                    patch = model.image_size // grid
                    near_RC = near_patches(circles_K3, grid, patch, patch / 2)
                    name = found.about or "any lesion"
                    turns[found.method, name].append(Turn(found.value_RC, near_RC))
        if (count + 1) % 50 == 0 or count + 1 == config.phantoms:
            left = (time.monotonic() - start) / (count + 1) * (config.phantoms - count - 1)
            sys.stderr.write(f"phantom {count + 1}/{config.phantoms}  {left:.0f} s left\n")
    rows = [
        (method, name, pointing(*zip(*found, strict=True)))
        for (method, name), found in turns.items()
        if len(found) >= _ENOUGH
    ]
    if not rows:
        raise ValueError(f"--phantoms={config.phantoms}: too few have what is asked for; draw more")
    _write(place_of(config), rows)
    sys.stdout.write(
        "what the picture alone gives: add --untrained=1, and 2, and 3: draws differ much\n"
        f"see the maps: python -m maskedclip.explain {config.weights} --images FILE,FILE\n"
    )
    return rows


def forget(network: nn.Module, seed: int) -> None:
    """Draw the weights of all norms, linear maps and embeddings anew, in place."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()


def _classes(phantom: Phantom, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a fine-tuned head should call the phantom, where it knows such a disease."""
    truth = phantom.labels["disease"], phantom.labels["diabetic_retinopathy"]
    return tuple(name for name in truth if name in classes and name != "0")[:1]


def _target(found: Map, phantom: Phantom, question: Question) -> np.ndarray:
    """Return circles_K3 of what the map should point at, none where that was not drawn."""
    groups = phantom.lesions
    if found.about and found.about not in question.classes:  # a prompt, or another class
        groups = {name: groups[name] for name in groups if name == found.about}
    return np.array([circle for group in groups.values() for circle in group]).reshape(-1, 3)


def _as_seen(circles_K3: np.ndarray, size: int, image_size: int) -> np.ndarray:
    """Return the circles in the network's pixels, those whose middle it sees."""
    box = box_seen(size, size, image_size)
    scale = image_size / (box.right - box.left)
    x_K, y_K, radius_K = circles_K3.T
    # pixel centres are at whole numbers, edges half a pixel before
    x_K, y_K = ((x_K + 0.5 - box.left) * scale - 0.5, (y_K + 0.5 - box.top) * scale - 0.5)
    inside_K = (np.minimum(x_K, y_K) >= 0) & (np.maximum(x_K, y_K) <= image_size - 1)
    return np.stack([x_K, y_K, radius_K * scale], axis=1)[inside_K]


def _write(out: Path, rows: list[tuple[str, str, Pointing]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / TABLE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "finding", *Pointing._fields])
        writer.writerows([method, name, *found] for method, name, found in rows)
    head = (
        "method",
        "finding",
        "images",
        "hits [95 %]",
        "random patch",
        "others' maps",
        "gain [95 %]",
    )
    table = [head]
    for method, name, p in rows:
        hits = f"{100 * p.hit:.1f} [{100 * p.low:.1f}, {100 * p.high:.1f}]"
        gain = f"{100 * p.gain:+.1f} [{100 * p.gain_low:+.1f}, {100 * p.gain_high:+.1f}]"
        chances = (f"{100 * p.chance:.1f}", f"{100 * p.shuffled:.1f}")
        table.append((method, name, str(p.images), hits, *chances, gain))
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.write(f"per cent; tolerance half a patch; see {out / TABLE}\n")

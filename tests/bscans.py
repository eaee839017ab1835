"""Drawn B-scans (optical coherence tomography in a cartoon): no round field, three findings."""

from pathlib import Path

import cv2
import numpy as np

FINDINGS = ("normal", "drusen", "fluid")
CARD = """
name = "drawn_bscans"
title = "Drawn B-scans"
role = "paired"
licence = "CC0"
citation = ""
obtain = "drawn by a test"
field = "whole"
template = "An optical coherence tomography B-scan of [CLS]"

[[path]]
pattern = '/(?P<split>train|val|test)/(?P<finding>normal|drusen|fluid)/(?P<patient>\\d+)\\.png$'

[classes.finding]
normal = "a normal retina"
drusen = "drusen"
fluid = "subretinal fluid"

[dictionary]
"a normal retina" = ["smooth layers without deposits"]
drusen = ["bumps of the pigment epithelium", "deposits beneath the retina"]
"subretinal fluid" = ["a dark dome beneath the retina"]
"""


def bscan(
    seed: int, finding: str, height: int = 124, width: int = 192, exposure: int = 0
) -> np.ndarray:
    """Return image_HWC uint8: layers on a dark ground, lit over the whole width, and speckle.

    Another exposure has the same layers and other speckle.
    """
    rng = np.random.default_rng(seed)
    column_W = np.arange(width) / width
    first, second = rng.uniform(0.5, 3, 2)
    base_W = height * (
        0.55 + 0.06 * np.sin(first * np.pi * column_W + rng.uniform(0, 6))
        + 0.03 * np.sin(2 * second * np.pi * column_W + rng.uniform(0, 6))
    )  # fmt: skip
    row_H1, image_HW = np.arange(height)[:, None], np.full((height, width), 12.0)
    lifted_W = np.zeros(width)
    if finding != "normal":
        bumps, size = (6, 0.02) if finding == "drusen" else (1, 0.09)
        for centre in rng.uniform(0.15, 0.85, bumps):
            lifted_W += 0.07 * height * np.exp(-(((column_W - centre) / size) ** 2))
    for offset, light, thick in ((-0.22, 150, 0.05), (-0.13, 90, 0.05), (-0.05, 170, 0.03)):
        middle_W = base_W + offset * height - lifted_W
        image_HW += light * np.exp(-(((row_H1 - middle_W) / (thick * height)) ** 2))
    floor_W = base_W - (lifted_W if finding == "drusen" else 0)
    image_HW += 200 * np.exp(-(((row_H1 - floor_W) / (0.02 * height)) ** 2))
    rng = np.random.default_rng((seed, exposure)) if exposure else rng
    image_HW *= rng.gamma(8, 1 / 8, image_HW.shape)
    return np.repeat(image_HW.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def write_bscans(root: Path, counts: dict[str, int]) -> Path:
    """Write root/SPLIT/FINDING/NUMBER.png, and the card beside it; return the card's path."""
    number = 0
    for split, count in counts.items():
        for index in range(count):
            finding, number = FINDINGS[index % 3], number + 1
            path = root / "images" / split / finding / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), bscan(number, finding))
    card = root / "drawn_bscans.toml"
    card.write_text(CARD)
    return card

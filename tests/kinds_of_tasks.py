"""Small datasets of several labels an image, and of numbers, that colours give away."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from maskedclip.data.storage.shards import ShardWriter
from maskedclip.shards.building.prepare_sample import encode

LABELS = {"N": "normal", "D": "diabetic retinopathy", "G": "glaucoma"}
PARTS = ("train", "train", "train", "val", "test", "test")


def write_findings(directory: Path, images: int = 90, labels: Mapping[str, str] = LABELS) -> Path:
    """Each of N, D, G brightens a colour; two images a patient; every part of the tree has some."""
    generator = np.random.default_rng(0)
    classes = {"findings": dict(labels)}
    with ShardWriter(
        directory, directory.name, classes=classes, kinds={"findings": "labels"}
    ) as writer:
        for i in range(images):
            has_Y = generator.random(3) < [0.5, 0.4, 0.3]
            image_HWC = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            image_HWC += (80 * has_Y).astype(np.uint8)
            text = "|".join(name for name, has in zip(LABELS, has_Y, strict=True) if has)
            _add(writer, i, image_HWC, {"findings": text})
    return directory


def write_ages(directory: Path, images: int = 90) -> Path:
    """An age between 40 and 80, which brightens the image."""
    generator = np.random.default_rng(0)
    with ShardWriter(directory, directory.name, kinds={"age": "number"}) as writer:
        for i in range(images):
            share = generator.random()
            image_HWC = generator.integers(0, 60, (40, 40, 3), dtype=np.uint8)
            image_HWC += np.uint8(180 * share)
            _add(writer, i, image_HWC, {"age": f"{40 + 40 * share:.1f}"})
    return directory


def _add(writer: ShardWriter, i: int, image_HWC: np.ndarray, labels: dict[str, str]) -> None:
    patient, split = f"p{i // 2:03d}", PARTS[i // 2 % len(PARTS)]
    facts = {"labels": labels, "split": split, "patient": patient, "sha256": str(i)}
    writer.add(f"s{i:03d}", encode(image_HWC, 90), facts)

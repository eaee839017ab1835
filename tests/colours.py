"""A small labelled dataset that is learnt in seconds, and a fine-tuning of it."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from maskedclip.config import FinetuneConfig
from maskedclip.data.storage.shards import ShardWriter
from maskedclip.shards.building.prepare_sample import encode

DAMAGED = ("s011", "s080")  # of training and of test


def two_colours(directory: Path, contrast: int = 80, damaged: Collection[str] = DAMAGED) -> Path:
    """Write a dataset of red and green noise, 60 images to train and 24 to test."""
    generator = np.random.default_rng(0)
    with ShardWriter(directory, "colours") as writer:
        for i in range(84):
            image_HWC = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            image_HWC[..., i % 2] += contrast
            jpeg = encode(image_HWC, 90)
            key = f"s{i:03d}"
            facts = {
                "labels": {"colour": ("red", "green")[i % 2]},
                "split": "train" if i < 60 else "test",
                "sha256": key,
            }
            writer.add(key, jpeg[:200] if key in damaged else jpeg, facts)
    return directory


def config_of(directory: Path) -> FinetuneConfig:
    return FinetuneConfig(
        weights="random", size="micro", dataset=str(directory / "colours"), out=str(directory),
        name="ours", image_size=32, epochs=5, warmup_epochs=1, lr=1e-3, layer_decay=0.9, threads=0,
    )  # fmt: skip

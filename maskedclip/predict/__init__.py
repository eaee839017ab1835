"""A fine-tuned network on images, from Python in one call; torch is imported by the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskedclip.predict.command import PredictConfig, check_predict

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PredictConfig", "predict"]


def predict(config: PredictConfig) -> Path:
    """Write the CSV of paths, classes and probabilities; return its path.

    Rows that are there stay. Raises ValueError for a run or images that are not there.
    """
    check_predict(config)
    from maskedclip.predict.classify import run

    return run(config)

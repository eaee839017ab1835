"""Answers of networks on one and the same test split, for comparisons."""

import numpy as np

from maskedclip.metrics.prediction_files import Predictions


def measured(
    images: int = 200, skill: float = 1.0, seed: int = 0, classes: int = 3, each: int = 2
) -> Predictions:
    """Return one network's answers on the test split of that many images, `each` a patient."""
    labels = np.random.default_rng(99)
    label_B = np.repeat(labels.integers(0, classes, images // each), each)
    hard_BY = labels.normal(size=(images, classes))  # what makes an image hard for every network
    noise_BY = np.random.default_rng(seed).normal(size=(images, classes))
    logit_BY = skill * np.eye(classes)[label_B] + 0.7 * hard_BY + 0.5 * noise_BY
    probability_BY = np.exp(logit_BY)
    probability_BY /= probability_BY.sum(axis=1, keepdims=True)
    keys = [f"image{i}" for i in range(images)]
    return Predictions(keys, [str(i // each) for i in range(images)], label_B, probability_BY)


def noise(generator: np.random.Generator, each: int, images: int = 120) -> np.ndarray:
    """Return noise of an image, and as much that a patient's images share."""
    own_B = generator.normal(size=images)
    return own_B + np.repeat(generator.normal(size=images // each), each)

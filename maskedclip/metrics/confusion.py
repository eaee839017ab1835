"""The confusion matrix of a test split."""

import numpy as np


def confusion(classes: int, label_B: np.ndarray, probability_BY: np.ndarray) -> np.ndarray:
    """Return the number of images of a class (row) that are predicted as a class (column)."""
    count_YY = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(count_YY, (label_B, probability_BY.argmax(axis=1)), 1)
    return count_YY

"""Which epoch's weights are kept: one number from validation, the larger the better."""

import math

import numpy as np
from sklearn.metrics import cohen_kappa_score, f1_score

from maskedclip.metrics.scores import macro


def selection_score(kind: str, label_B: np.ndarray, probability_BY: np.ndarray) -> float:
    """Return the macro AUROC, or for kind `retfound` its mean with macro F1 and Cohen's kappa.

    The latter is RETFound's score of 2025: F1 over all classes, 0 for one without images or
    predictions, and kappa without weights. Raises RuntimeError where there is no number to choose
    by.
    """
    value, _ = macro("auroc", label_B, probability_BY)
    if kind == "retfound":
        chosen_B, classes = probability_BY.argmax(axis=1), range(probability_BY.shape[1])
        f1 = f1_score(label_B, chosen_B, labels=classes, average="macro", zero_division=0)
        value = (f1 + value + cohen_kappa_score(label_B, chosen_B)) / 3
    if not math.isfinite(value):
        raise RuntimeError(
            f"validation: {len(label_B)} images of {len(set(label_B.tolist()))} classes give no "
            f"score to select an epoch by; check the shards, or use another --split"
        )
    return float(value)

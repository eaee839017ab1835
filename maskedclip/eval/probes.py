"""A linear classifier on frozen features: how much of a label the encoder already says."""

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maskedclip.eval.scores import macro

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of scikit-learn: the inverse of the penalty
_ITERATIONS = 2000


class Probe(NamedTuple):
    """Probabilities for the test features, and what was chosen on the validation features."""

    probability_BY: np.ndarray
    strength: float
    validation_auroc: float


def linear_probe(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test_BD: np.ndarray,
    num_classes: int,
) -> Probe:
    """Fit standardised features by logistic regression, its penalty chosen by validation AUROC.

    Args:
        train, validation: (features_BD, labels_B).

    A class that has no training label gets probability 0. Raises ValueError where training labels
    are of one class.
    """
    feature_BD, label_B = train
    if len(np.unique(label_B)) < 2:
        raise ValueError(f"linear probe: {len(label_B)} training labels of one class; use more")
    best: Probe | None = None
    for strength in STRENGTHS:  # of equal ones the first, which is the smoothest
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS)
        )
        model.fit(feature_BD, label_B)
        auroc, _ = macro("auroc", validation[1], _spread(model, validation[0], num_classes))
        if best is None or auroc > best.validation_auroc:
            best = Probe(_spread(model, test_BD, num_classes), strength, auroc)
    assert best is not None
    return best


def _spread(model: LogisticRegression, feature_BD: np.ndarray, num_classes: int) -> np.ndarray:
    """Return probability_BY with a column for every class, also for those never seen."""
    probability_BY = np.zeros((len(feature_BD), num_classes))
    probability_BY[:, model.classes_] = model.predict_proba(feature_BD)
    return probability_BY

"""AUROC, average precision and their curves are scikit-learn's, to the bit."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from maskedclip.metrics.ranking import auroc, average_precision, precision_recall, roc


@pytest.mark.parametrize("number", [np.float64, np.float32])
def test_areas_and_curves_are_scikit_learns_to_the_bit_with_and_without_ties(number: type) -> None:
    compared = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        images, digits = int(draw.integers(2, 300)), int(draw.integers(1, 9))
        own_B = draw.random(images) < draw.random()
        score_B = draw.random(images).round(digits).astype(number)
        if own_B.all() or not own_B.any():
            continue
        assert auroc(own_B, score_B) == float(roc_auc_score(own_B, score_B))
        expected = float(average_precision_score(own_B, score_B))
        assert average_precision(own_B.astype(int), score_B) == expected
        false_K, true_K, _ = roc_curve(own_B, score_B)
        assert np.array_equal(roc(own_B, score_B), np.stack([false_K, true_K], axis=1))
        precision_K, recall_K, _ = precision_recall_curve(own_B, score_B)
        ours_K2 = precision_recall(own_B, score_B)[::-1]
        assert np.array_equal(ours_K2.T, [recall_K[:-1], precision_K[:-1]])
        compared += 1
    assert compared > 40

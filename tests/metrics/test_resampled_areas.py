"""Areas under the curves of resamples are scikit-learn's, of images weighted as they were drawn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from maskedclip.metrics.resampled_areas import AREAS, ranked, resampled_areas

BY_SCIKIT_LEARN = {"auroc": roc_auc_score, "average_precision": average_precision_score}


def drawn_counts(images: int, resamples: int, seed: int) -> np.ndarray:
    shares = np.full(images, 1 / images)
    return np.random.default_rng(seed).multinomial(images, shares, resamples).T.astype(float)


@pytest.mark.parametrize("digits", [0, 1, 9])  # of scores: all tied, many ties, none
@pytest.mark.parametrize("positives", [1, 3, 40, 79, 80])
def test_each_resample_has_scikit_learns_areas_and_none_without_positives_or_negatives(
    digits: int, positives: int
) -> None:
    generator = np.random.default_rng((digits, positives))
    positive_B = generator.permutation(np.arange(80) < positives)
    score_B = np.clip(generator.normal(0.5 + 0.1 * positive_B, 0.2), 0, 1).round(digits) / 2
    weight_BR = drawn_counts(80, 40, seed=positives)
    found = resampled_areas(AREAS, [ranked(positive_B, score_B)], weight_BR)
    for metric, score in BY_SCIKIT_LEARN.items():
        for weight_B, value in zip(weight_BR.T, found[metric][0], strict=True):
            if len(set(positive_B[weight_B > 0].tolist())) < 2:
                assert np.isnan(value)
                continue
            expected = score(positive_B, score_B, sample_weight=weight_B)
            assert value == pytest.approx(expected, abs=1e-12)


def test_a_constant_score_is_chance_in_every_resample_also_of_many_images() -> None:
    """Products of counts, 36 million pairs here, are beyond the whole numbers of float32."""
    positive_B = np.arange(12_001) % 2 == 0
    weight_BR = drawn_counts(12_001, 600, seed=0)  # more than are taken at a time
    found = resampled_areas(AREAS, [ranked(positive_B, np.full(12_001, 0.3))], weight_BR)
    np.testing.assert_array_equal(found["auroc"], np.full((1, 600), 0.5))
    share_R = positive_B @ weight_BR / weight_BR.sum(axis=0)
    np.testing.assert_allclose(found["average_precision"][0], share_R, rtol=1e-15)


def test_several_answers_of_an_image_are_drawn_together() -> None:
    generator = np.random.default_rng(4)
    positive_BY, score_BY = generator.random((30, 3)) < 0.4, generator.random((30, 3)).round(1)
    weight_BR = drawn_counts(30, 8, seed=1)
    image_A = np.repeat(np.arange(30), 3)
    ranking = ranked(positive_BY.reshape(-1), score_BY.reshape(-1), image_A)
    found_R = resampled_areas(["auroc"], [ranking], weight_BR)["auroc"][0]
    for weight_B, value in zip(weight_BR.T, found_R, strict=True):
        again_B = np.repeat(np.arange(30), weight_B.astype(int))
        expected = roc_auc_score(positive_BY[again_B].reshape(-1), score_BY[again_B].reshape(-1))
        assert value == pytest.approx(expected, abs=1e-12)

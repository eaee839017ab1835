"""What a run's page counts equals what the run measured."""

import numpy as np
import pytest

from maskedclip.metrics.confusion import confusion
from maskedclip.metrics.scores import point
from maskedclip.report.pages.run_statistics import (
    class_curves,
    reliability,
    reliability_of_labels,
    worst,
)
from tests.report.pages.runs import predicted

FOUND = predicted("idrid", 5, 1.0, 0, images=200)


def test_the_calibration_error_is_that_of_the_scores() -> None:
    bins, error = reliability(FOUND.label_B, FOUND.probability_BY)
    value, _ = point("calibration_error", FOUND.label_B, FOUND.probability_BY)
    assert error == pytest.approx(value, abs=1e-12)
    assert sum(each.images for each in bins) == 200


def test_labels_that_err_both_ways_do_not_cancel_and_untrained_ones_do_not_count() -> None:
    label_BY = np.array([[0, 1, 0], [0, 1, 1]])
    probability_BY = np.array([[0.5, 0.5, 0.9], [0.5, 0.5, 0.9]])
    bins, error = reliability_of_labels(label_BY, probability_BY, untrained=(2,))
    assert error == 0.5  # never and always, both called with 0.5
    assert [(one.images, one.confidence, one.accuracy) for one in bins] == [(4, 0.5, 0.5)]
    assert reliability_of_labels(label_BY, probability_BY, untrained=(0, 1, 2)) == ([], None)


def test_the_mean_over_classes_is_that_of_the_scores() -> None:
    curves = class_curves([*"01234"], FOUND.label_B, FOUND.probability_BY)
    for metric in ("auroc", "average_precision"):
        value, _ = point(metric, FOUND.label_B, FOUND.probability_BY)
        assert np.mean([getattr(curve, metric) for curve in curves]) == pytest.approx(value)


def test_the_drawn_curves_enclose_their_areas() -> None:
    for curve in class_curves([*"01234"], FOUND.label_B, FOUND.probability_BY):
        false_K, true_K = curve.roc_K2.T
        assert np.trapezoid(true_K, false_K) == pytest.approx(curve.auroc, abs=2e-3)
        recall_K, precision_K = curve.precision_K2.T
        area = (np.diff(recall_K) * precision_K[1:]).sum()
        assert area == pytest.approx(curve.average_precision, abs=2e-3)


def test_a_class_without_images_has_no_curve_and_is_counted() -> None:
    label_B = np.array([0, 0, 1])
    probability_BY = np.array([[0.9, 0.1, 0.0], [0.2, 0.1, 0.7], [0.3, 0.6, 0.1]])
    curves = class_curves(["a", "b", "c"], label_B, probability_BY)
    assert curves[2].roc_K2 is None
    assert (curves[2].images, curves[2].predicted, curves[2].auroc) == (0, 1, None)
    assert confusion(3, label_B, probability_BY).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_the_surest_mistake_stands_first() -> None:
    label_B = np.array([0, 0, 1, 1])
    probability_BY = np.array([[0.4, 0.6], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    found = worst(["w", "x", "y", "z"], label_B, probability_BY, 5)
    assert [(each.key, each.label, each.predicted) for each in found] == [("y", 1, 0), ("w", 0, 1)]
    assert len(worst(["w", "x", "y", "z"], label_B, probability_BY, 1)) == 1

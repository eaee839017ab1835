"""The linear probe finds what is linear, and never sees the test labels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from maskedclip.eval.probes import STRENGTHS, linear_probe
from maskedclip.eval.zeroshot import class_embeddings, probabilities


def blobs(seed: int, images: int = 90, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label_B = np.arange(images) % classes
    return generator.normal(size=(images, 8)) * 100 + 150 * np.eye(8)[label_B], label_B


def test_separable_features_are_told_apart() -> None:
    test_BD, label_B = blobs(2)
    probe = linear_probe(blobs(0), blobs(1), test_BD, 3)
    assert probe.strength in STRENGTHS
    assert probe.probability_BY.sum(axis=1) == pytest.approx(1)
    assert roc_auc_score(np.eye(3)[label_B], probe.probability_BY) > 0.8


def test_a_class_without_training_labels_gets_probability_zero() -> None:
    probability_BY = linear_probe(blobs(0), blobs(1), blobs(2)[0], 4).probability_BY
    assert probability_BY.shape == (90, 4)
    assert (probability_BY[:, 3] == 0).all()


def test_training_labels_of_one_class_are_refused() -> None:
    feature_BD, _ = blobs(0)
    with pytest.raises(ValueError, match="one class"):
        linear_probe((feature_BD, np.zeros(90, dtype=int)), blobs(1), feature_BD, 3)


def test_a_class_embedding_is_the_unit_mean_of_its_prompts() -> None:
    rows = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [-1.0, 0.0]}
    found = class_embeddings(
        lambda texts: torch.tensor([rows[text] for text in texts]), [["a", "b"], ["c"]]
    )
    half = 0.5**0.5
    torch.testing.assert_close(found, torch.tensor([[half, half], [-1.0, 0.0]]))


def test_zero_shot_is_the_softmax_of_the_scaled_cosine() -> None:
    image_BD, class_YD = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    e = np.exp(3.0)
    by_hand = torch.tensor([[e / (e + 1), 1 / (e + 1)]], dtype=torch.float64)
    torch.testing.assert_close(probabilities(image_BD, class_YD, 3.0), by_hand)

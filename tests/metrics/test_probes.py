"""Probes learn what there is to learn, by their definitions, and choose on validation alone."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from maskedclip.evaluate.linear_probe import RATES, linear
from maskedclip.metrics.probes import NEIGHBOURS, STRENGTHS, Probe, logistic, nearest
from maskedclip.metrics.scores import macro
from maskedclip.metrics.zero_shot import class_embeddings, probabilities

PROBES = {"logistic": logistic, "nearest": nearest, "linear": partial(linear, seed=0)}


def blobs(seed: int, images: int = 90, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label_B = np.arange(images) % classes
    rows_BD = generator.normal(size=(images, 8)) * 100 + 150 * np.eye(8)[label_B]
    return rows_BD.astype(np.float32), label_B


@pytest.fixture(params=PROBES)
def probe(request: pytest.FixtureRequest) -> Callable[..., Probe]:
    return PROBES[request.param]


def test_separable_features_are_told_apart(probe: Callable[..., Probe]) -> None:
    test_BD, label_B = blobs(2)
    result = probe(blobs(0), blobs(1), test_BD, 3)
    assert result.probability_BY.sum(axis=1) == pytest.approx(1)
    assert roc_auc_score(np.eye(3)[label_B], result.probability_BY) > 0.8
    grids = {"C": STRENGTHS, "k": NEIGHBOURS, "lr": RATES}
    knob, value = result.chosen.split("=")
    assert float(value) in grids[knob]


def test_training_labels_of_one_class_are_refused(probe: Callable[..., Probe]) -> None:
    feature_BD, _ = blobs(0)
    with pytest.raises(ValueError, match="one class"):
        probe((feature_BD, np.zeros(90, dtype=int)), blobs(1), feature_BD, 3)


def test_the_same_arguments_give_the_same_bits(probe: Callable[..., Probe]) -> None:
    one, two = (probe(blobs(0), blobs(1), blobs(2)[0], 3).probability_BY for _ in range(2))
    assert (one == two).all()


def test_what_is_chosen_is_the_best_on_validation() -> None:
    train, validation, test_BD = blobs(0), blobs(1), blobs(2)[0]
    chosen = logistic(train, validation, test_BD, 3)
    alone = {}
    for strength in STRENGTHS:
        found = logistic(train, validation, validation[0], 3, strengths=(strength,))
        alone[f"C={strength:g}"] = found.probability_BY
    aurocs = {name: macro("auroc", validation[1], result)[0] for name, result in alone.items()}
    assert chosen.validation_score == max(aurocs.values()) == aurocs[chosen.chosen]
    assert len(set(aurocs.values())) > 1


def test_a_class_without_training_labels_gets_probability_zero() -> None:
    for probe in (logistic, nearest):
        probability_BY = probe(blobs(0), blobs(1), blobs(2)[0], 4).probability_BY
        assert probability_BY.shape == (90, 4)
        assert (probability_BY[:, 3] == 0).all()


def test_neighbours_vote_by_the_exponential_of_their_cosine() -> None:
    generator = np.random.default_rng(3)
    rows_BD = generator.normal(size=(5, 4)).astype(np.float32)  # fewer than any k: all vote
    label_B = np.array([0, 1, 2, 0, 1])
    query_D = generator.normal(size=4).astype(np.float32)
    votes = np.zeros(3)
    for row_D, label in zip(rows_BD, label_B, strict=True):
        cosine = row_D @ query_D / np.linalg.norm(row_D) / np.linalg.norm(query_D)
        votes[label] += np.exp(cosine / 0.07)
    result = nearest((rows_BD, label_B), (rows_BD, label_B), query_D[None], 3)
    np.testing.assert_allclose(result.probability_BY[0], votes / votes.sum(), rtol=1e-5)


def test_another_seed_trains_another_linear_probe() -> None:
    one, two = (linear(blobs(0), blobs(1), blobs(2)[0], 3, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.probability_BY, two.probability_BY)
    np.testing.assert_allclose(one.probability_BY, two.probability_BY, atol=0.3)


def test_a_linear_probe_does_not_mind_the_scale_of_its_features() -> None:
    (train, labels), (rows, answers), (test_BD, _) = blobs(0), blobs(1), blobs(2)
    one = linear((train, labels), (rows, answers), test_BD, 3, seed=0)
    two = linear((64 * train, labels), (64 * rows, answers), 64 * test_BD, 3, seed=0)
    np.testing.assert_allclose(one.probability_BY, two.probability_BY, atol=1e-3)


def test_two_images_are_enough_for_every_probe(probe: Callable[..., Probe]) -> None:
    feature_BD, label_B = blobs(0)
    result = probe((feature_BD[:2], label_B[:2]), blobs(1), blobs(2)[0], 3)
    assert np.isfinite(result.probability_BY).all()


def test_a_class_embedding_is_the_unit_mean_of_its_prompts() -> None:
    rows = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [-1.0, 0.0]}
    result = class_embeddings(
        lambda texts: torch.tensor([rows[text] for text in texts]), [["a", "b"], ["c"]]
    )
    half = 0.5**0.5
    torch.testing.assert_close(result, torch.tensor([[half, half], [-1.0, 0.0]]))


def test_zero_shot_is_the_softmax_of_the_scaled_cosine() -> None:
    image_BD, class_YD = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    e = np.exp(3.0)
    by_hand = torch.tensor([[e / (e + 1), 1 / (e + 1)]], dtype=torch.float64)
    torch.testing.assert_close(probabilities(image_BD, class_YD, 3.0), by_hand)

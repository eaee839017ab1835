"""Encoders of different sizes and patches: one size that all can see is named."""

import logging

import pytest

from maskedclip.evaluate.features import Ensemble, FrozenEncoder
from maskedclip.evaluate.several import _check_sizes


class Sized(FrozenEncoder):
    """Weights of which only their size and patch are known."""

    def __init__(self, name: str, size: int, patch: int) -> None:
        self.weights = self.name = name
        self.own = size, patch

    @property
    def own_sizes(self) -> list[tuple[str, int, int]]:
        return [(self.name, *self.own)]


MAE, DINO, RESNET = Sized("mae", 224, 16), Sized("dino", 518, 14), Sized("flair", 512, 1)


def test_sizes_that_differ_are_said_with_one_that_is_the_same(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        _check_sizes([MAE, Ensemble([DINO, RESNET]), RESNET], 0)
    (line,) = caplog.messages
    assert "mae 224 px, dino 518 px, flair 512 px; --image_size=224 shows all of them" in line
    _check_sizes([MAE, DINO, RESNET], 224)  # and it is one


def test_nothing_is_said_of_one_size_or_of_a_size_that_was_asked_for(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        _check_sizes([MAE, Sized("other", 224, 14)], 0)
        _check_sizes([MAE, DINO], 448)
    assert caplog.messages == []


def test_a_size_that_does_not_fit_all_is_refused_with_one_that_does() -> None:
    with pytest.raises(
        ValueError, match="of the patch 14 of dino; use a multiple of 112, such as 224"
    ):
        _check_sizes([MAE, DINO], 256)
    with pytest.raises(
        ValueError, match="of the patch 16 of mae, 14 of dino; use a multiple of 112"
    ):
        _check_sizes([MAE, DINO], 250)

"""What the tests of a card call, on the processor: that it is right where no card is."""

import pytest
import torch

from maskedclip.config import override
from tests.gpu.on_a_device import differences, encoded, losses_of, saved_and_restored
from tests.pretrain import test_dinov2

CPU = torch.device("cpu")


def test_losses_are_those_of_the_same_steps_again_and_of_no_others(small):
    first, again = (losses_of(small, CPU, 2) for _ in range(2))
    assert differences(first, again) == 0.0
    assert differences(first, losses_of(override(small, {"seed": 1}), CPU, 2)) > 0.01


@pytest.mark.slow
def test_what_is_saved_is_restored_on_a_processor(small, tmp_path):
    assert all(saved_and_restored(small, CPU, tmp_path))


def test_an_encoder_s_values_and_gradients_are_compared():
    found = encoded("sdpa", CPU, (0, 0))
    assert [tuple(x.shape) for x in found[:2]] == [(6, 5, 128), (3, 17, 128)]
    assert len(found) > 20
    assert all(x.abs().max() > 0 for x in found)


@pytest.mark.slow
def test_a_step_of_dinov2_and_one_in_parts_run_so_too(small):
    for config in (test_dinov2.shrunk(small), override(small, {"optim.accumulate": 2})):
        (values,) = losses_of(config, CPU, 1)
        assert values["loss"] == values["loss"]

"""Faulty steps are skipped on the device, and reported when the host asks."""

import math

import pytest
import torch
from torch import nn

from maskedclip.engine.optimizer import adamw
from maskedclip.engine.step_guard import StepGuard


def guarded(spike: float = 0.0) -> tuple[nn.Linear, torch.optim.AdamW, StepGuard]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.05)
    return model, optimizer, StepGuard(optimizer, torch.device("cpu"), spike=spike)


def step(model, optimizer, guard, number: int, norm: float, loss: float = 1.0) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.zero_grad()
    model(torch.ones(1, 3)).sum().backward()
    guard.check(number, {"loss": torch.tensor(loss), "grad_norm": torch.tensor([norm])})
    optimizer.step()


def state(model, optimizer) -> list[torch.Tensor]:
    moments = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    return [value.clone() for value in (*model.parameters(), *moments)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "norm"])
def test_from_a_fault_on_neither_weights_nor_moments_change(value: float, where: str) -> None:
    setup = guarded()
    step(*setup, 0, norm=1.0)
    before = state(*setup[:2])
    step(*setup, 1, **{"norm": 1.0, where: value})
    step(*setup, 2, norm=1.0)
    assert all(map(torch.equal, before, state(*setup[:2])))
    fault = setup[2].fault()
    assert fault.step == 1
    assert fault.terms == [{"loss": "loss", "norm": "grad_norm"}[where]]


def test_a_resumed_run_goes_on_as_if_there_had_been_no_fault() -> None:
    setup, others = guarded(), guarded()
    for number in range(3):
        step(*setup, number, norm=1.0)
        step(*others, number, norm=1.0)
    step(*setup, 3, norm=math.nan)
    assert setup[2].fault().step == 3
    setup[2].resume()
    assert setup[2].fault() is None
    for group in (setup, others):
        step(*group, 3, norm=1.0)
    assert all(map(torch.equal, state(*setup[:2]), state(*others[:2])))


def test_a_gradient_far_above_the_mean_is_a_fault_where_that_is_asked_for() -> None:
    for spike, skipped in ((5.0, True), (0.0, False)):
        setup = guarded(spike)
        for number in range(60):
            step(*setup, number, norm=1.0 + 0.1 * (number % 3))
        step(*setup, 60, norm=4.0)
        assert setup[2].fault() is None
        step(*setup, 61, norm=8.0)
        assert (setup[2].fault() is not None) == skipped
        if skipped:
            assert setup[2].fault()[:2] == (61, ["grad_norm"])


def test_the_first_steps_are_no_spikes() -> None:
    setup = guarded(spike=2.0)
    for number, norm in enumerate((0.001, 50.0, 3.0, 40.0)):
        step(*setup, number, norm=norm)
    assert setup[2].fault() is None

"""What the tests of a card run on it, and those of a processor there."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskedclip.config import Config
from maskedclip.engine.checkpoint import Checkpoints, full_weights, restore
from maskedclip.engine.distributed import process_group
from maskedclip.engine.step_guard import StepGuard
from maskedclip.models.blocks import attend_by
from maskedclip.models.encoder import Encoder
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.methods.protocol import At, Method
from maskedclip.pretrain.sources import Batches, read_sources


def losses_of(config: Config, device: torch.device, steps: int) -> list[dict[str, float]]:
    """Return what is logged of the first steps of a run on `device`."""
    with process_group():
        method = method_of(config)(config, device)
        return [
            {name: float(value) for name, value in values.items()}
            for values in islice(stepped(method, config, device), steps)
        ]


def stepped(method: Method, config: Config, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Take steps; yield what is logged of each, on the device."""
    guard = StepGuard(method.optimizer, device, spike=config.engine.spike)
    view, sources = method.view(config), read_sources(config)
    with Batches(config, sources, view, method.tokenize, device) as batches:
        batches.seek(0)
        for step in range(config.optim.steps):
            batch = batches.next()
            with refused_waits(device, step > 0):  # constants come with the first step
                batch = batches.on_device(batch)
                values = method.step(batch, At(step, config.optim.steps, 1e-3), guard)
            yield values


@contextmanager
def refused_waits(device: torch.device, refused: bool) -> Iterator[None]:
    """Have torch raise at what the host would wait for; a processor has no such thing."""
    if device.type != "cuda" or not refused:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def saved_and_restored(config: Config, device: torch.device, folder: Path) -> list[bool]:
    """Return of each weight whether a new run has it as the one that saved it had."""
    with process_group():
        method, again = (method_of(config)(config, device) for _ in range(2))
        list(islice(stepped(method, config, device), 2))
        with Checkpoints(folder, 1, asynchronous=True) as checkpoints:
            checkpoints.save(2, method.model, method.teacher, method.optimizer)
        weights = full_weights(method.model)
        assert restore(folder, again.model, again.teacher, again.optimizer) == 2
        restored = full_weights(again.model)
        return [value.equal(restored[name]) for name, value in weights.items()]


def encoded(kernel: str, device: torch.device, capability: tuple[int, int]) -> list[Tensor]:
    """Return the tokens of masked and whole images in bf16, and the gradient of each weight."""
    torch.manual_seed(0)
    compute = torch.bfloat16
    encoder = Encoder(image_size=64, patch_size=16, width=128, depth=2, heads=2)
    encoder = encoder.to(device, compute)
    attend_by(kernel, [encoder], compute, capability)
    image_BCHW = torch.randn(6, 3, 64, 64).to(device, compute)
    visible_BV = torch.rand(6, 16).argsort(dim=1)[:, :4].to(device)
    masked, whole = encoder(image_BCHW, visible_BV, 3)
    (masked.float().square().mean() + whole.float().sin().mean()).backward()
    slopes = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    return [x.detach().float().cpu() for x in (masked, whole, *slopes)]


def differences(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """Return the largest difference of two logs, as a share of the values."""
    pairs: list[tuple[Any, Any]] = [
        (a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a
    ]
    return max(abs(a - b) / max(1e-3, abs(b)) for a, b in pairs)

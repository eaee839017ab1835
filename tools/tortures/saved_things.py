"""What a run writes, in three parts: the state before, the save that fails, and what is left.

A generator yields when all is ready, then what the failed save has raised, if anything; it gets
what was said, and returns what has not been saved.
"""

import json
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from maskedclip.engine.checkpoint import Checkpoints, restore
from maskedclip.engine.step_log import Recorder
from maskedclip.finetune.selection import BestWeights
from maskedclip.models.checkpoints.files import ENCODER, MODEL, export
from maskedclip.models.checkpoints.sealed import is_whole
from tests.engine.test_checkpoint import names, numbers, state
from tests.untrained import SHAPE

Save = Generator[str | None, list[str], str]


def networks(seed: int, finetuning: bool) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    model, teacher, optimizer = state(seed)
    return model, BestWeights(model) if finetuning else teacher, optimizer


def checkpoint(place: Path, *, asynchronous: bool, finetuning: bool = False) -> Save:
    """Save step 2 badly after step 1; one of them verifies, and step 3 is saved."""
    folder = place / "kept"
    ours = {step: networks(step, finetuning) for step in (1, 2, 3)}
    target = networks(4, finetuning)

    def restored() -> int:
        step = restore(folder, *target)
        assert step, "no checkpoint is left"
        for found, wanted in zip(numbers(*target), numbers(*ours[step]), strict=True):
            assert torch.equal(found, wanted), f"step {step} has other values"
        return step

    with Checkpoints(folder, 2, asynchronous=asynchronous) as checkpoints:
        checkpoints.save(1, *ours[1])
        checkpoints.wait()
        yield None
        checkpoints.save(2, *ours[2])
        checkpoints.wait()
        yield None
        newest = restored()
        checkpoints.save(3, *ours[3])
        checkpoints.wait()
    assert restored() == 3, "the next save did not succeed"
    assert set(names(folder)) <= {1, 2, 3}, f"left over: {names(folder)}"
    return "" if newest == 2 else "step 2 is not saved"


def exported(place: Path) -> Save:
    """Export other weights over those that are there; each file is whole, the old or the new."""
    sizes = {"encoder.a": 3000, "text.b": 50}
    old, new = ({k: torch.full((n,), value) for k, n in sizes.items()} for value in (1.0, 2.0))
    export(old, SHAPE, place)
    before = {name: (place / name).read_bytes() for name in (ENCODER, MODEL)}
    yield None
    message = None
    try:
        export(new, SHAPE, place)
    except (OSError, RuntimeError) as error:
        message = str(error)
    yield message
    for name in (ENCODER, MODEL):
        assert is_whole(place / name), f"{name} is not whole"
    kept = [name for name in before if (place / name).read_bytes() == before[name]]
    export(new, SHAPE, place)
    assert all(is_whole(place / name) for name in before), "the next export is not whole"
    assert {path.name for path in place.iterdir()} <= {ENCODER, MODEL, *leftovers(place)}
    return f"{', '.join(kept)} not written" if kept else ""


def leftovers(place: Path) -> set[str]:
    """Return what the next start of a run removes (engine/whole_file.py)."""
    return {path.name for path in place.glob(".*.tmp")}


def row(place: Path) -> Save:
    """Log a row that may be lost; those before and after it are whole."""
    recorder = Recorder(place, 0)
    values = {f"loss_{name}": 0.5 for name in "abcdefgh"}
    for step in (1, 2):
        recorder.record(step, values)
    yield None
    recorder.record(3, values)
    yield None
    recorder.record(4, values)
    recorder.close()
    lines = (place / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps in ([1, 2, 3, 4], [1, 2, 4]), f"rows {steps}"
    assert all(json.loads(line)["loss_h"] == 0.5 for line in lines)
    return "" if 3 in steps else "the row of step 3 is lost"


SAVES: Mapping[str, Callable[[Path], Save]] = {
    "checkpoint": partial(checkpoint, asynchronous=False),
    "in the background": partial(checkpoint, asynchronous=True),
    "fine-tuning's": partial(checkpoint, asynchronous=True, finetuning=True),
    "export": exported,
    "row": row,
}

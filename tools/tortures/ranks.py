"""One rank stops, a pixel, a loss or a gradient is nan, bits flip on one rank: found, handled."""

import json
import logging
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from tortures.commands import Running
from tortures.kills import of_pretraining
from tortures.trials import OURS, Trial, Verdict

from maskedclip.config import Config, override
from maskedclip.engine.hang_watch import HUNG
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import METHODS
from maskedclip.pretrain.methods import maskedclip as method
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod
from tests.conftest import a_small_run, small_phantoms
from tests.jobs.test_torchrun import flags
from tests.ranks.processes import start_ranks

NUMBER = 60
SECONDS = 900.0
HANG_MINUTES = 0.25
FAULTY = 3  # the step, from 0, in which a value is spoilt
HIGHEST = 30  # bit of an exponent


class Flipped(MaskedClipMethod):
    """Flips a bit of one rank's copy of the weights after one step, once."""

    victim = 0

    def step(self, batch: Any, at: Any, guard: Any) -> Any:
        stepped = super().step(batch, at, guard)
        if at.step == FAULTY and dist.get_rank() == Flipped.victim:
            parameter = self.model.get_parameter("encoder.blocks.0.attn.qkv.weight")
            parameter.detach().view(-1).view(torch.int32)[7] ^= 1
        return stepped


class Fault(NamedTuple):
    """A value that is spoilt on one rank in one step, so many times."""

    what: str  # pixels, loss, or the gradient that leaves the encoder's first block
    by: str  # nan, inf: all values; flip: the highest bit of one value's exponent
    times: int


class Spoilt(MaskedClipMethod):
    """Has a fault."""

    fault = Fault("", "", 0)
    times, rank = 0, 0

    def step(self, batch: Any, at: Any, guard: Any) -> Any:
        if at.step != FAULTY or not Spoilt.times or dist.get_rank() != Spoilt.rank:
            return super().step(batch, at, guard)
        Spoilt.times -= 1
        with PLACES[Spoilt.fault.what](self.model.encoder):
            return super().step(batch, at, guard)


def spoil(x: torch.Tensor) -> torch.Tensor:
    """Return x with the fault. The value nearest to 1 is flipped: it becomes huge, or inf."""
    if Spoilt.fault.by != "flip":
        return x * float(Spoilt.fault.by)
    changed = x.clone()
    flat = changed.view(-1)
    place = int((flat.abs() - 1).abs().argmin())
    (number,) = struct.unpack("<I", struct.pack("<f", float(flat[place])))
    flat[place] = struct.unpack("<f", struct.pack("<I", number ^ 1 << HIGHEST))[0]
    return changed


@contextmanager
def spoilt_pixels(encoder: nn.Module) -> Iterator[None]:
    handle = encoder.get_submodule("patch_embed").register_forward_pre_hook(
        lambda _, given: (spoil(given[0]),)
    )
    yield
    handle.remove()


@contextmanager
def spoilt_gradient(encoder: nn.Module) -> Iterator[None]:
    def hook(_: Any, __: Any, found: Any) -> None:
        found.register_hook(spoil)

    handle = encoder.get_submodule("blocks.0").register_forward_hook(hook)
    yield
    handle.remove()


@contextmanager
def spoilt_loss(_: nn.Module) -> Iterator[None]:
    whole = method.objective

    def objective(*given: Any) -> Any:
        terms, out = whole(*given)
        loss = terms["loss"].detach()
        return terms | {"loss": terms["loss"] * (spoil(loss) / loss)}, out

    with patch.object(method, "objective", objective):
        yield


PLACES = {"pixels": spoilt_pixels, "gradient": spoilt_gradient, "loss": spoilt_loss}


def train_spoilt(rank: int, config: Config, out: Path, fault: Fault, victim: int) -> None:
    """Train with the fault; write what it ended with."""
    Spoilt.fault, Spoilt.times, Spoilt.rank = fault, fault.times, victim
    train_as(Spoilt, rank, config, out)


def train_flipped(rank: int, config: Config, out: Path, victim: int) -> None:
    """Train on copies, of which one changes; write what it ended with."""
    Flipped.victim = victim
    train_as(Flipped, rank, config, out)


def train_as(faulty: type[MaskedClipMethod], rank: int, config: Config, out: Path) -> None:
    METHODS["maskedclip"] = faulty
    logging.disable(logging.WARNING)
    message = ""
    try:
        pretrain(config)
    except RuntimeError as error:
        message = str(error)
    (out / f"said-{rank}").write_text(message)


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """Two ranks, of six steps; the undisturbed run beside it."""
    phantoms = small_phantoms(folder / "shards")

    def config(place: Path, **changes: object) -> Config:
        more = {"engine.save_every": 2, "engine.hang_minutes": HANG_MINUTES} | changes
        return override(a_small_run(phantoms, place), more)

    whole = folder / "whole"
    whole.mkdir()
    words = ["-m", "maskedclip.pretrain", "demo"]
    Running([*words, *flags(config(whole))], whole, ranks=2).wait(600)
    wanted = of_pretraining(whole)

    def trial(rng: random.Random, number: int) -> Mapping[str, Verdict]:
        place = folder / f"{number}"
        place.mkdir()
        name = list(CASES)[number % len(CASES)]
        verdict = CASES[name](place, config, wanted, rng)
        shutil.rmtree(place)
        return {OURS: verdict._replace(note=f"{name}: {verdict.note}")}

    yield trial


def stopped(place: Path, config: Callable, wanted: Mapping, rng: random.Random) -> Verdict:
    """Stop one rank within its steps: the job ends with its own exit code, and names it."""
    words = ["-m", "maskedclip.pretrain", "demo", *flags(config(place, **{"optim.steps": 6}))]
    running, victim = Running(words, place, ranks=2), rng.randrange(2)
    rows, end = place / "runs" / "small" / "metrics.jsonl", time.monotonic() + 300
    while not (rows.exists() and rows.read_text().count("\n") >= 1):
        if time.monotonic() > end:
            running.signal(signal.SIGKILL)
            return Verdict("LOST", "no step in 300 s")
        time.sleep(0.02)
    running.signal(signal.SIGSTOP, victim)
    ended = running.wait(300)
    codes = [rank.code for rank in ended]
    again = Running(words, place, ranks=2).wait(300)
    if any(rank.code for rank in again):
        return Verdict("LOST", f"codes {codes}; then {again[0].err[-200:]}")
    if of_pretraining(place) != wanted:
        return Verdict("SILENT", "the run that went on has other values")
    if codes == [0, 0]:
        return Verdict("harmless", f"rank {victim} was woken, and the run ended")
    if HUNG not in codes or not any(f"rank {victim}" in rank.err for rank in ended):
        return Verdict("LOST", f"rank {victim} is not named, codes {codes}: {ended[0].err[-200:]}")
    return Verdict("refused", f"rank {victim} named, codes {codes}; the same command went on")


def spoilt(fault: Fault, on_fault: str, answers: list[str]) -> Callable:
    """Return the case of a value that is spoilt on one rank; answers: of faults.jsonl then."""

    def attempt(place: Path, config: Callable, wanted: Mapping, rng: random.Random) -> Verdict:
        own = config(place, **{"engine.on_fault": on_fault})
        started = start_ranks(2, train_spoilt, own, place, fault, rng.randrange(2))
        while not started.join(timeout=1):
            pass
        said = [(place / f"said-{rank}").read_text() for rank in range(2)]
        path = own.directory / "faults.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        found = [row.get("answer", "stopped") for row in rows]
        if not rows:
            return Verdict("SILENT", "nothing was found")
        if not rows[0].get("keys"):
            return Verdict("LOST", f"its samples are not named: {rows[0]}")
        if on_fault == "stop":
            named = all(f"step {FAULTY + 1}" in text and "\n" not in text for text in said)
            return Verdict("refused" if named else "LOST", said[0])
        if any(said) or [answer.split(":")[0] for answer in found] != answers:
            return Verdict("LOST", f"answers {found}, said {said}")
        if fault.times == 1 and of_pretraining(place) != wanted:
            return Verdict("SILENT", "other values than without the fault")
        return Verdict("refused", f"{found}")

    return attempt


def flipped(place: Path, config: Callable, wanted: Mapping, rng: random.Random) -> Verdict:  # noqa: ARG001
    """Flip the lowest bit of a weight on one rank: named at the next save, which is not made."""
    own, victim = config(place, **{"engine.sharding": "replicate"}), rng.randrange(2)
    started = start_ranks(2, train_flipped, own, place, victim)
    while not started.join(timeout=1):
        pass
    said = [(place / f"said-{rank}").read_text() for rank in range(2)]
    if not said[0]:
        return Verdict("SILENT", "nothing was found")
    kept = sorted(path.name for path in (own.directory / "checkpoints").iterdir())
    words = ["-m", "maskedclip.pretrain", "demo", *flags(own)]
    again = Running(words, place, ranks=2).wait(300)
    if any(rank.code for rank in again):
        return Verdict("LOST", f"then {again[0].err[-200:]}")
    right = said[0] == said[1] and "qkv.weight is another on rank" in said[0]
    if not right or kept != ["step-00000002"]:
        return Verdict("LOST", f"{kept}: {said}")
    return Verdict("refused", f"{said[0]}; the same command went on")


ONCE = ["repeated", "well when repeated"]
ALWAYS = ["repeated", "skipped"]
CASES: Mapping[str, Callable[..., Verdict]] = {
    "a rank is stopped": stopped,
    "a bit of one copy of the weights flips": flipped,
    "a gradient is nan on one rank": spoilt(Fault("gradient", "nan", 99), "stop", []),
    "a batch whose gradient is nan is skipped": spoilt(
        Fault("gradient", "nan", 99), "skip", ALWAYS
    ),
    "a gradient is nan once": spoilt(Fault("gradient", "nan", 1), "skip", ONCE),
    "the highest bit of a gradient flips once": spoilt(Fault("gradient", "flip", 1), "skip", ONCE),
    "an image is nan on one rank": spoilt(Fault("pixels", "nan", 99), "stop", []),
    "the highest bit of a pixel flips once": spoilt(Fault("pixels", "flip", 1), "skip", ONCE),
    "a batch whose loss is nan is skipped": spoilt(Fault("loss", "nan", 99), "skip", ALWAYS),
    "a loss is inf once": spoilt(Fault("loss", "inf", 1), "skip", ONCE),
}

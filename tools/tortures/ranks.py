"""One rank stops, a loss or a gradient is not a number, bits flip on one rank: found, handled."""

import json
import logging
import math
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tortures.commands import Running
from tortures.kills import of_pretraining
from tortures.trials import OURS, Trial, Verdict

from maskedclip.config import Config, override
from maskedclip.engine.hang_watch import HUNG
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import METHODS
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod
from tests.conftest import a_small_run, small_phantoms
from tests.jobs.test_torchrun import flags
from tests.ranks.processes import start_ranks

NUMBER = 60
SECONDS = 900.0
HANG_MINUTES = 0.25
FAULTY = 3  # the step, from 0, in which a value is spoilt


class Flipped(MaskedClipMethod):
    """Flips a bit of one rank's copy of the weights after one step, once."""

    victim = 0

    def step(self, batch: Any, at: Any, guard: Any) -> Any:
        stepped = super().step(batch, at, guard)
        if at.step == FAULTY and dist.get_rank() == Flipped.victim:
            parameter = self.model.encoder.blocks[0].attn.qkv.weight
            parameter.detach().view(-1).view(torch.int32)[7] ^= 1
        return stepped


class Spoilt(MaskedClipMethod):
    """Spoils the gradient that leaves the encoder, on one rank, in one step, so many times."""

    spoil: Callable[[torch.Tensor], torch.Tensor]
    times, rank = 1, 0

    def step(self, batch: Any, at: Any, guard: Any) -> Any:
        if at.step != FAULTY or not Spoilt.times or dist.get_rank() != Spoilt.rank:
            return super().step(batch, at, guard)
        Spoilt.times -= 1

        def hook(_: Any, __: Any, found: Any) -> None:
            tensor = found[0] if isinstance(found, tuple) else found
            tensor.register_hook(Spoilt.spoil)

        handle = self.model.encoder.blocks[0].register_forward_hook(hook)
        try:
            return super().step(batch, at, guard)
        finally:
            handle.remove()


def flip(bit: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what flips a bit of one value of a gradient."""

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        changed = gradient.clone()
        flat = changed.view(-1)
        (number,) = struct.unpack("<I", struct.pack("<f", float(flat[0])))
        flat[0] = struct.unpack("<f", struct.pack("<I", number ^ 1 << bit))[0]
        return changed

    return spoil


def train_spoilt(rank: int, config: Config, out: Path, bit: int, times: int, victim: int) -> None:
    """Train with the fault; write what it ended with."""
    Spoilt.spoil = staticmethod(flip(bit) if bit >= 0 else lambda g: g * math.nan)
    Spoilt.times, Spoilt.rank = times, victim
    train_as(Spoilt, rank, config, out)


def train_flipped(rank: int, config: Config, out: Path, victim: int) -> None:
    """Train on copies, of which one changes; write what it ended with."""
    Flipped.victim = victim
    train_as(Flipped, rank, config, out)


def train_as(method: type[MaskedClipMethod], rank: int, config: Config, out: Path) -> None:
    METHODS["maskedclip"] = method
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


def spoilt(bit: int, times: int, on_fault: str, answers: list[str]) -> Callable:
    """Return the case of a gradient that is spoilt on one rank; what faults.jsonl then says."""

    def attempt(place: Path, config: Callable, wanted: Mapping, rng: random.Random) -> Verdict:
        own = config(place, **{"engine.on_fault": on_fault})
        started = start_ranks(2, train_spoilt, own, place, bit, times, rng.randrange(2))
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
        if times == 1 and of_pretraining(place) != wanted:
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
CASES: Mapping[str, Callable[..., Verdict]] = {
    "a rank is stopped": stopped,
    "a bit of one copy of the weights flips": flipped,
    "a gradient is nan on one rank": spoilt(-1, 99, "stop", []),
    "a batch whose gradient is nan is skipped": spoilt(-1, 99, "skip", ["repeated", "skipped"]),
    "a gradient is nan once": spoilt(-1, 1, "skip", ONCE),
    "the highest bit of an exponent flips once": spoilt(30, 1, "skip", ONCE),
}

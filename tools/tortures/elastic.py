"""A run whose number of ranks changes at each start: each sample once an epoch, the same losses."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.multiprocessing import ProcessExitedException
from tortures.trials import OURS, Trial, Verdict

from maskedclip.config import Config, override
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import METHODS
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod
from tests.conftest import a_small_run, small_phantoms
from tests.ranks.processes import start_ranks
from tests.ranks.test_checkpoint_ranks import losses

NUMBER = 20
SECONDS = 1800.0
WORLDS, BATCH, STEPS, EPOCH = (1, 2, 3, 4), 12, 6, 2  # BATCH of each source; EPOCH in steps
CLOSE = 1e-5  # relative, of losses; sums of other ranks are rounded otherwise


def train_and_record(rank: int, config: Config, record: Path) -> None:
    """Train; write the step and the samples of each batch to a file of this rank."""

    class Recording(MaskedClipMethod):
        def step(self, batch: Any, at: Any, guard: Any) -> Any:
            with record.with_name(f"{record.name}-{rank}").open("a") as file:
                file.write(json.dumps([at.step, list(batch.keys)]) + "\n")
            return super().step(batch, at, guard)

    METHODS["maskedclip"] = Recording
    pretrain(config)


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """The undisturbed run has one rank."""
    phantoms = small_phantoms(folder / "shards")

    def config(place: Path) -> Config:
        changes = {
            "data.paired_batch": BATCH, "data.unpaired_batch": BATCH, "optim.steps": STEPS,
            "engine.save_every": 1,
        }  # fmt: skip
        return override(a_small_run(phantoms, place), changes)

    whole = folder / "whole"
    whole.mkdir()
    while not start_ranks(1, train_and_record, config(whole), whole / "0").join():
        pass
    wanted = consumed(whole, [1]), losses(config(whole).directory)

    def trial(rng: random.Random, number: int) -> Mapping[str, Verdict]:
        place = folder / f"{number}"
        place.mkdir()
        worlds = path(config(place), place, rng)
        found = consumed(place, worlds), losses(config(place).directory)
        verdict = judged(found, wanted)
        shutil.rmtree(place)
        return {OURS: verdict._replace(note=f"ranks {worlds}: {verdict.note}")}

    yield trial


def path(config: Config, place: Path, rng: random.Random) -> list[int]:
    """Start with a number of ranks, kill all after some steps, and so on; return the numbers."""
    worlds: list[int] = []
    done = 0
    while done < STEPS:
        record = place / f"{len(worlds)}"
        worlds.append(rng.choice([world for world in WORLDS if worlds[-1:] != [world]]))
        done = min(STEPS, done + rng.randrange(1, 4))
        started = start_ranks(worlds[-1], train_and_record, config, record)
        try:
            while not started.join(timeout=0.02):
                if done < STEPS and last_step(record.with_name(f"{record.name}-0")) >= done:
                    for pid in started.pids():
                        with suppress(ProcessLookupError):  # one ends as another is gone
                            os.kill(pid, signal.SIGKILL)
        except ProcessExitedException:  # killed; one rank may end by itself before the others
            for process in started.processes:
                process.kill()
                process.join()
    return worlds


def last_step(record: Path) -> int:
    lines = record.read_text().splitlines() if record.exists() else []
    return json.loads(lines[-1])[0] if lines else -1


def consumed(place: Path, worlds: list[int]) -> list[list[str]]:
    """Return the samples of each step, as the last start that took it had them from its ranks."""
    steps: dict[int, list[str]] = {}
    for number, world in enumerate(worlds):
        shares = [
            dict(json.loads(line) for line in complete(place / f"{number}-{rank}"))
            for rank in range(world)
        ]
        for step in sorted(set.intersection(*map(set, shares))):
            each = BATCH // world
            paired = [key for share in shares for key in share[step][:each]]
            steps[step] = paired + [key for share in shares for key in share[step][each:]]
    return [steps[step] for step in sorted(steps)]


def complete(record: Path) -> list[str]:
    lines = record.read_text().splitlines(keepends=True) if record.exists() else []
    return [line for line in lines if line.endswith("\n")]


def judged(found: tuple, wanted: tuple) -> Verdict:
    steps, rows = found
    if len(steps) != STEPS:
        return Verdict("LOST", f"{len(steps)} steps of {STEPS}")
    for kind in (slice(0, BATCH), slice(BATCH, None)):
        for first in range(0, STEPS, EPOCH):
            epoch = [key for step in steps[first : first + EPOCH] for key in step[kind]]
            if len(set(epoch)) < len(epoch):
                return Verdict("SILENT", f"a sample twice in the epoch of step {first + 1}")
    if steps != wanted[0]:
        return Verdict("SILENT", "other samples than one rank has")
    worst = max(
        abs(a - b) / max(abs(b), 1e-3)
        for row, own in zip(rows, wanted[1], strict=True)
        for a, b in zip(row, own, strict=True)
    )
    if worst > CLOSE:
        return Verdict("SILENT", f"losses differ by {worst:.1g}")
    return Verdict("harmless", f"losses differ by {worst:.1g} at most")

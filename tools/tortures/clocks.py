"""The system's time jumps an hour back and forth, while a run, a fine-tuning and a grid go on."""

import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tortures.commands import Running, built
from tortures.kills import Kind, of_run, written
from tortures.trials import OURS, Hung, Trial, Unavailable, Verdict

from tests.conftest import a_small_run
from tests.jobs.test_torchrun import flags

NUMBER = 21
SECONDS = 1800.0
PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """Each command in an interpreter whose clock is libfaketime's; monotonic time is untouched."""
    library = next((path for place in PLACES for path in Path("/").glob(place[1:])), None)
    if library is None:
        raise Unavailable("no libfaketime; apt-get install faketime")
    sleep = built(folder, "real_sleep")
    kinds = [kind for kind in written(folder) if kind.name in ("pretrain", "finetune")]
    kinds.append(Kind("grid", lambda place: sweep(folder, place), of_grid))
    whole = {}
    for kind in kinds:
        place = folder / f"whole-{kind.name}"
        place.mkdir()
        (ended,) = Running(kind.words(place), place).wait(900)
        if ended.code:
            raise RuntimeError(f"{kind.name}: fails with a steady clock: {ended.err[-300:]}")
        whole[kind.name] = kind.result(place)

    def trial(rng: random.Random, number: int) -> Mapping[str, Verdict]:
        kind = kinds[number % len(kinds)]
        place = folder / f"{number}"
        place.mkdir()
        verdict = jumped(kind, place, f"{sleep} {library}", rng, whole[kind.name])
        shutil.rmtree(place)
        return {OURS: verdict._replace(note=f"{kind.name}: {verdict.note}")}

    yield trial


def sweep(folder: Path, place: Path) -> list[str]:
    """Return the command of a grid here: two pre-trainings, each measured, and their report."""
    phantoms = {name: folder / "shards" / name for name in ("paired", "unpaired", "heldout")}
    own = ("--name=", "--out=", "--after.")  # of the grid
    fields = flags(a_small_run(phantoms, place))
    return [
        "launchers/submit_sweep.py", "demo", "--cluster=local", "--gpus=0", "--parallelism=2",
        "--sweep=loss.clip=0.1,1", f"--datasets={phantoms['heldout']}", "--task=disease",
        "--protocols=knn", f"--out={place / 'runs'}",
        *(field for field in fields if not field.startswith(own)),
    ]  # fmt: skip


def of_grid(place: Path) -> Mapping[str, object]:
    """Return what its runs learnt, and its table."""
    grid = place / "runs" / "grids" / "sweep"
    found: dict[str, object] = {"table1.csv": (grid / "report" / "table1.csv").read_text()}
    for run in sorted((grid / "runs" / "seed0").iterdir()):
        found |= {f"{run.name}, {name}": value for name, value in of_run(run).items()}
    return found


def jumped(
    kind: Kind, place: Path, preloaded: str, rng: random.Random, wanted: Mapping[str, object]
) -> Verdict:
    """Run a command while its clock jumps each second or so."""
    clock = place / "clock"
    clock.write_text("+0")
    variables = {
        "LD_PRELOAD": preloaded, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    running = Running(kind.words(place), place, fresh=True, variables=variables)
    jumps, end = 0, time.monotonic() + SECONDS / 2
    while running.codes() == [None]:
        if time.monotonic() > end:
            running.signal(9)
            raise Hung(f"no end after {SECONDS / 2:g} s and {jumps} jumps")
        temporary = clock.with_suffix(".new")
        temporary.write_text(rng.choice(("+3600", "-3600", "+0")))
        os.replace(temporary, clock)  # noqa: PTH105 (whole, as it is read at each call)
        jumps += 1
        time.sleep(0.3 + rng.random())
    (ended,) = running.ended()
    if ended.code:
        return Verdict("LOST", f"exit code {ended.code} after {jumps} jumps: {ended.err[-300:]}")
    if kind.result(place) != wanted:
        return Verdict("SILENT", f"{jumps} jumps, and other values")
    return Verdict("harmless", f"{jumps} jumps")

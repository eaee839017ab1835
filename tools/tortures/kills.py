"""Commands that are killed at random instants and given again: the results are those of one start.

Killed are all processes of a command, or one rank alone, whose others must then end by themselves
if they have met; else they would wait for it for ten minutes, and are ended as srun ends them.
Ten of eleven commands run in a fork of a process that has imported torch, so that the instants
fall into the work; the eleventh is a fresh interpreter.
"""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import simplejpeg
from tortures.commands import Running
from tortures.trials import OURS, Trial, Verdict

from maskedclip.config import override
from maskedclip.models.checkpoints.files import read_safetensors
from maskedclip.shards.phantoms.phantom import draw
from tests.colours import config_of, two_colours
from tests.conftest import a_small_run, small_phantoms
from tests.finetune.test_finetune_resume import files_of
from tests.jobs.test_torchrun import flags
from tests.shards.test_make_shards import contents
from tests.untrained import exported

NUMBER = 320  # 100 of pre-training on one rank, 100 on two, 50 fine-tunings, 50 builds, 20 exports
SECONDS = 1200.0
TURNS = (0, 1, 2, 0, 1, 3) * 5 + (4, 4)  # of the kinds
WAIT_S = 600.0  # for a command to end
LEARNT = ("step", "epoch", "loss", "lr", "logit_scale", "grad_norm")  # of a row; others are times
MET = "ranks on 1 nodes"  # what a run says when its ranks have met
IMPORTS_S = 4.0  # of a fresh interpreter on a quiet machine


class Kind(NamedTuple):
    """A command, and what it leaves that must not differ by a bit."""

    name: str
    words: Callable[[Path], list[str]]  # by the folder that it writes to
    result: Callable[[Path], Mapping[str, object]]
    ranks: int = 1


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """Each command is run undisturbed before its first trial."""
    kinds = written(folder)
    whole: dict[str, tuple[float, Mapping[str, object]]] = {}
    for kind in kinds:
        begun = time.monotonic()
        place = folder / f"whole-{kind.name}"
        place.mkdir()
        ended = Running(kind.words(place), place, ranks=kind.ranks).wait(WAIT_S)
        if any(rank.code for rank in ended):
            raise RuntimeError(f"{kind.name}: fails where nothing is killed: {ended[0].err[-300:]}")
        whole[kind.name] = time.monotonic() - begun, kind.result(place)

    def trial(rng: random.Random, number: int) -> Mapping[str, Verdict]:
        kind = kinds[TURNS[number % len(TURNS)]]
        place = folder / f"{number}"
        place.mkdir()
        lasts_s, wanted = whole[kind.name]
        verdict = killed(kind, place, rng, lasts_s, wanted, fresh=number % 11 == 5)
        shutil.rmtree(place)
        return {OURS: verdict._replace(note=f"{kind.name}: {verdict.note}")}

    yield trial


def killed(
    kind: Kind,
    place: Path,
    rng: random.Random,
    lasts_s: float,
    wanted: Mapping[str, object],
    *,
    fresh: bool,
) -> Verdict:
    """Kill a command one to three times, let it end, and compare what it leaves."""
    words, instants = kind.words(place), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        running = Running(words, place, ranks=kind.ranks, fresh=fresh)
        instants.append(round(rng.random() * (lasts_s + IMPORTS_S * fresh), 2))
        victims = [rng.randrange(kind.ranks)] if kind.ranks > 1 and rng.random() < 0.5 else []
        time.sleep(instants[-1])
        running.signal(signal.SIGKILL, *victims)
        if victims and not any(MET in one.err for one in running.ended()):
            running.signal(signal.SIGKILL)  # a launcher ends who would wait for a rank to come
        running.wait(WAIT_S)
    said = f"killed after {', '.join(map(str, instants))} s of {lasts_s:.2f}"
    ended = Running(words, place, ranks=kind.ranks, fresh=fresh).wait(WAIT_S)
    if any(rank.code for rank in ended):
        codes = [rank.code for rank in ended]
        return Verdict("LOST", f"{said}; then exit codes {codes}: {ended[0].err[-300:]}")
    found = kind.result(place)
    if found.keys() != wanted.keys():
        return Verdict("LOST", f"{said}; differs by {sorted(found.keys() ^ wanted.keys())[:4]}")
    if other := [name for name in wanted if found[name] != wanted[name]]:
        return Verdict("SILENT", f"{said}; {other[0]} is another")
    return Verdict("harmless", said)


def written(folder: Path) -> list[Kind]:
    """Write what the commands read."""
    phantoms = small_phantoms(folder / "shards")
    two_colours(folder / "colours", contrast=4)
    exported(folder / "run", terms=("mim",))
    for number in range(12):
        image = folder / "photographs" / "ab"[number % 2] / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(encoded(number))

    def pretrain(place: Path) -> list[str]:
        config = override(a_small_run(phantoms, place), {"engine.save_every": 2})
        return ["-m", "maskedclip.pretrain", "demo", *flags(config)]

    def finetune(place: Path) -> list[str]:
        config = replace(config_of(folder), out=str(place), name="tuned", epochs=4)
        changed = ("size", "dataset", "out", "name", "image_size", "epochs", "warmup_epochs",
                   "lr", "layer_decay", "threads")  # fmt: skip
        values = [f"--{name}={getattr(config, name)}" for name in changed]
        return ["-m", "maskedclip.finetune", "random", *values]

    def shards(place: Path) -> list[str]:
        return [
            "tools/make_shards.py", "folder", f"--root={folder / 'photographs'}",
            f"--out={place / 'shards'}", "--classes=disease", "--name=toy", "--size=64",
            "--workers=1", "--samples_per_shard=4",
        ]  # fmt: skip

    def export(place: Path) -> list[str]:
        return ["tools/export_weights.py", str(folder / "run"), "--to=timm", f"--out={place / 'e'}"]

    return [
        Kind("pretrain", pretrain, of_pretraining),
        Kind("pretrain-2", pretrain, of_pretraining, ranks=2),
        Kind("finetune", finetune, lambda place: files_of(place / "tuned")),
        Kind("make_shards", shards, lambda place: contents(place / "shards")),
        Kind("export", export, lambda place: contents(place / "e")),
    ]


def encoded(seed: int) -> bytes:
    return simplejpeg.encode_jpeg(draw(seed, 96).image_HWC)


def of_pretraining(place: Path) -> Mapping[str, object]:
    return of_run(place / "runs" / "small")


def of_run(run: Path) -> Mapping[str, object]:
    """Return the values of each row, and the bytes of each tensor."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, object] = {
        f"row {number}, {key}": value
        for number, row in enumerate(rows)
        for key, value in row.items()
        if key.startswith(LEARNT)
    }
    for name in ("encoder.safetensors", "model.safetensors"):
        tensors, _ = read_safetensors(run / name)
        found |= {f"{name}, {key}": value.numpy().tobytes() for key, value in tensors.items()}
    return found

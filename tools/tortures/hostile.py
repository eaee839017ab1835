"""Artefacts of strangers that would run code, fill the memory or wait for ever; and user mistakes.

Each is given to the command that reads it: a line and exit code 2, or a sample or a file that is
listed by name; nothing is executed, and nothing is written elsewhere.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tortures.commands import one_line, run
from tortures.hostile_files import CHECKPOINTS, PHOTOGRAPHS, WEIGHTS, Mark
from tortures.mistakes import MISTAKES, Fixtures, prepared
from tortures.trials import ERRORS, OURS, Trial, Verdict, broken

from maskedclip.shards.make import ShardRequest, build
from tests.data.test_hostile_shards import BROKEN, MEMBERS, between, outcome
from tests.tars import sample

SECONDS = 120.0


class Case(NamedTuple):
    """A hostile thing, or a mistake, and what tries it."""

    name: str
    attempt: Callable[[Fixtures, Path], Verdict]


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """All cases in turn; each has a folder of its own."""
    fixtures = prepared(folder / "fixtures")

    def trial(_: random.Random, number: int) -> Mapping[str, Verdict]:
        case = CASES[number % len(CASES)]
        place = folder / f"case-{number}"
        place.mkdir()
        mark = Mark(place / "executed", folder / "outside")
        try:
            verdict = case.attempt(fixtures, place)
        except ERRORS as error:
            verdict = broken(error)
        if mark.left():
            verdict = Verdict("LOST", f"it ran code, or wrote elsewhere: {mark.left()}")
        return {OURS: verdict._replace(note=f"{case.name}: {verdict.note}")}

    yield trial


def weights(make: Callable[[Path, Mark], Path]) -> Callable[[Fixtures, Path], Verdict]:
    """Give a file of weights to a fine-tuning, and to the command that converts others'."""

    def attempt(fixtures: Fixtures, place: Path) -> Verdict:
        file = make(place, Mark(place / "executed", place.parent / "outside"))
        words = [
            "-m",
            "maskedclip.finetune",
            str(file),
            "--dataset",
            str(fixtures.shards),
            "--task=disease",
        ]
        more = ["--epochs=1", "--warmup_epochs=0", "--name=x"]
        verdict = one_line(run([*words, *more], place))
        if verdict.outcome != "refused" or file.suffix == ".safetensors":
            return verdict
        converted = run(["tools/convert_weights.py", str(file), "--out", str(place / "c")], place)
        return one_line(converted) if converted.code else verdict

    return attempt


def checkpoint(make: Callable[[Path, Mark], None]) -> Callable[[Fixtures, Path], Verdict]:
    """Change a run's checkpoint, and have the same command go on."""

    def attempt(fixtures: Fixtures, place: Path) -> Verdict:
        step = fixtures.copy_of_run(place)
        make(step, Mark(place / "executed", place.parent / "outside"))
        return one_line(run(fixtures.pretrain(place), place))

    return attempt


def member(content: bytes) -> Callable[[Fixtures, Path], Verdict]:
    """Read a tar with a member that is refused, between two good samples."""

    def attempt(_: Fixtures, place: Path) -> Verdict:
        (place / "x.tar").write_bytes(sample("far") + between(content))
        delivered, listed = outcome(place)
        if len(listed) == 0:
            return Verdict("SILENT", f"delivered {sorted(delivered)}, listed nothing")
        return Verdict("refused", next(iter(listed.values())))

    return attempt


def photograph(make: Callable[[Path], Path]) -> Callable[[Fixtures, Path], Verdict]:
    """Build shards of a folder with one good photograph and a hostile file."""

    def attempt(fixtures: Fixtures, place: Path) -> Verdict:
        root = place / "download"
        (root / "a").mkdir(parents=True)
        (root / "a" / "good.jpg").write_bytes(fixtures.jpeg)
        hostile = make(root / "a")
        request = ShardRequest(
            dataset="folder", root=root, out=place / "out", name="toy", size=64, workers=1
        )
        summary = build(request, progress=False)
        rejected = summary.manifest["rejected"]
        if not any(hostile.name[:6] in ascii(entry) for entry in rejected):
            return Verdict("SILENT", f"{hostile.name!r} is not listed: {ascii(rejected)[:200]}")
        return Verdict("refused", ascii(rejected)[:200])

    return attempt


def mistake(words: Sequence[str]) -> Callable[[Fixtures, Path], Verdict]:
    def attempt(fixtures: Fixtures, place: Path) -> Verdict:
        given = [word.format_map(fixtures.names(place)) for word in words]
        return one_line(run(given, place))

    return attempt


CASES = [
    *(Case(f"weights, {name}", weights(make)) for name, make in WEIGHTS.items()),
    *(Case(f"checkpoint, {name}", checkpoint(make)) for name, make in CHECKPOINTS.items()),
    *(Case(f"photograph, {name}", photograph(make)) for name, make in PHOTOGRAPHS.items()),
    *(Case(f"shard, {name}", member(content)) for name, (content, _) in MEMBERS.items()),
    *(Case(f"shard, {name}", member(content)) for name, (content, _) in BROKEN.items()),
    *(Case(f"mistake, {' '.join(words)}", mistake(words)) for words in MISTAKES),
]
NUMBER = len(CASES)

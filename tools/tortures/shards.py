"""Damaged shards, beside webdataset's plain iteration of the same tars."""

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import webdataset
from tortures.trials import OURS, Trial, Verdict, broken, of_an_anchor

from maskedclip.data.storage.shards import Shards
from tests.data.test_damaged_shards import KINDS, Written, damage, write
from tests.data.test_damaged_shards import trial as try_ours

NUMBER = 10_000
SECONDS = 30.0  # of a trial; one that takes longer hangs


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """A dataset of three tars, of which one, its index or the manifest is damaged."""
    directory = folder / "toy"
    other, files = write(folder / "other" / "toy", 2), write(directory, 1)
    shards = Shards(directory)
    samples = []
    for index in range(len(shards)):
        jpeg, metadata = shards.read_members(index)
        samples.append((shards.key(index), jpeg, metadata))
    written = Written(directory, files, other, samples)

    def trial(rng: random.Random, number: int) -> Mapping[str, Verdict]:
        kind, seed = KINDS[number % len(KINDS)], rng.getrandbits(48)
        changed = damage(written, kind, random.Random(f"{kind} {seed}"))
        verdicts = {OURS: ours(written, kind, seed)}
        if any(name.endswith(".tar") for name in changed):  # it has no index and no manifest
            verdicts["webdataset"] = of_webdataset(written, changed)
        return verdicts

    yield trial


def ours(written: Written, kind: str, seed: int) -> Verdict:
    logging.disable(logging.ERROR)
    try:
        outcome = try_ours(written, kind, seed)
    except AssertionError as error:
        return Verdict("SILENT", f"{kind}, seed {seed}: {broken(error).note}")
    finally:
        logging.disable(logging.NOTSET)
    if len(outcome.delivered) == len(written.samples):
        return Verdict("harmless")
    return Verdict("refused", next(iter(outcome.listed.values()), "the manifest is refused"))


def of_webdataset(written: Written, changed: Mapping[str, bytes | None]) -> Verdict:
    """Return what plain iteration delivers, errors being raised."""
    for name, content in changed.items():
        path = written.directory / name
        path.unlink() if content is None else path.write_bytes(content)
    tars = [str(written.directory / name) for name in sorted(written.files) if name.endswith("tar")]
    wanted = [(key, jpeg, metadata) for key, jpeg, metadata in written.samples]

    def read() -> list[tuple[str, bytes | None, bytes | None]]:
        found = webdataset.WebDataset(
            tars, shardshuffle=False, handler=webdataset.reraise_exception
        )
        return [(sample["__key__"], sample.get("jpg"), sample.get("json")) for sample in found]

    def judge(found: list[tuple[str, bytes | None, bytes | None]]) -> Verdict:
        if found == wanted:
            return Verdict("harmless")
        return Verdict("SILENT", f"{len(set(wanted) - set(found))} of {len(wanted)} samples wrong")

    try:
        return of_an_anchor(read, judge)
    finally:
        for name in changed:
            (written.directory / name).write_bytes(written.files[name])

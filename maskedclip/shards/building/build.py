"""Write the shards of a dataset in parallel, so that a killed build goes on where it was.

A chunk of records is a shard. Each finished shard leaves a note in OUT/.building; the manifest is
made of the notes at the end. Nothing written depends on the number of workers, on how many jobs
shared the shards out, or on the clock.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from maskedclip.data.photographs.quality import Look
from maskedclip.data.storage.shard_writer import MANIFEST, replacing, write_manifest, write_shard
from maskedclip.data.storage.shards import read_manifest
from maskedclip.shards.building.lock import LOCK, locked
from maskedclip.shards.building.published_counts import compared
from maskedclip.shards.building.tallies import summary_of, tally_of
from maskedclip.shards.building.workers import made_in_order
from maskedclip.shards.downloads.records import Record

NOTES = ".building"


class Sample(NamedTuple):
    """One photograph ready to be written, and what is counted of it but not stored."""

    key: str
    jpeg: bytes
    metadata: dict[str, Any]
    look: Look | None = None  # None for what is drawn
    carried: tuple[str, ...] = ()


class Rejected(NamedTuple):
    """A file that gives no sample."""

    source: str
    reason: str


Prepare = Callable[[Record], Sample | Rejected]


class Plan(NamedTuple):
    """What is to be built; equal digests give equal bytes."""

    name: str
    records: Sequence[Record]
    prepare: Prepare  # pickled for the workers
    samples_per_shard: int
    digest: str  # of the request and of the files it reads
    facts: dict[str, Any]  # written to the manifest as they are
    classes: Mapping[str, Sequence[str]]  # of a task, in the order that a table shows them
    expected: Sequence[Mapping[str, Any]] = ()  # the published numbers, as in a card

    def chunk(self, number: int) -> Sequence[Record]:
        """Return the records of one shard."""
        first = number * self.samples_per_shard
        return self.records[first : first + self.samples_per_shard]

    @property
    def chunks(self) -> int:
        """How many shards there are, if no file is rejected."""
        return -(-len(self.records) // self.samples_per_shard)


def build_shards(out: Path, plan: Plan, *, workers: int, progress: bool) -> bool:
    """Write what is missing of the dataset at `out`; False where nothing was.

    Raises ValueError where `out` holds anything else, RuntimeError where another build writes to
    it or no file of the dataset could be read.
    """
    made = not out.exists()
    if not begin(out, plan):
        return False
    with locked(out):
        if is_done(out, plan):  # another build has just finished it
            return False
        for left in [*out.glob("*.tmp"), *(out / NOTES).glob("*.tmp")]:
            left.unlink()
        notes = _write(out, plan, range(plan.chunks), workers, progress)
        entries = [note["entry"] for note in notes if note["entry"]]
        if not entries:
            first = notes[0]["rejected"][0]
            shutil.rmtree(out if made else out / NOTES)
            found = f"none of its {len(plan.records)} files gives a photograph"
            raise RuntimeError(f"{plan.name}: {found}; the first, {first[0]}: {first[1]}")
        facts = plan.facts | {"digest": plan.digest} | summary_of(notes, plan.classes)
        found = facts["counts"] | {"images": len(plan.records)}
        facts["against_published"] = compared(plan.expected, found)
        write_manifest(out, plan.name, entries, **facts)
        shutil.rmtree(out / NOTES)
    return True


def build_part(out: Path, plan: Plan, part: int, parts: int, *, workers: int) -> None:
    """Write every `parts`-th shard from `part` on; `begin` came before, `build_shards` comes after.

    Several parts may be written at once, on several machines. Raises as `build_shards` does.
    """
    if is_done(out, plan):
        return
    with locked(out, f"part-{part}-of-{parts}"):
        if is_done(out, plan):
            return
        _refuse_foreign(out, plan)
        _write(out, plan, range(part, plan.chunks, parts), workers, progress=True)


def begin(out: Path, plan: Plan) -> bool:
    """Make `out` the place of this build; False, and nothing done, where it is finished.

    Raises ValueError where `out` holds anything else.
    """
    if is_done(out, plan):
        return False
    _refuse_foreign(out, plan)
    (out / NOTES).mkdir(parents=True, exist_ok=True)
    _write_json(out / NOTES / "request.json", {"digest": plan.digest})
    return True


def is_done(out: Path, plan: Plan) -> bool:
    """Return whether `out` holds this dataset; ValueError where it holds another one."""
    if not (out / MANIFEST).is_file():
        return False
    if read_manifest(out).get("digest") != plan.digest:
        found = "holds a dataset of another request or of other files"
        raise ValueError(f"{out}: {found}; remove it or choose another --out")
    return True


def shards_written(out: Path) -> int:
    """Return how many shards of an unfinished build are done."""
    return sum(1 for _ in (out / NOTES).glob("[0-9]*.json"))


def _refuse_foreign(out: Path, plan: Plan) -> None:
    if not out.exists() or all(path.name == LOCK for path in out.iterdir()):
        return
    if not (out / NOTES).is_dir():
        raise ValueError(f"{out}: is not empty and holds no dataset; choose another --out")
    request = out / NOTES / "request.json"
    if request.is_file() and json.loads(request.read_text())["digest"] != plan.digest:
        found = "holds an unfinished build of another request or of other files"
        raise ValueError(f"{out}: {found}; remove it or choose another --out")


def _write(
    out: Path, plan: Plan, numbers: Sequence[int], workers: int, progress: bool
) -> list[dict[str, Any]]:
    """Return the note of each of these shards, written now or by an earlier build."""
    done = {n: note for n in numbers if (note := _finished(out, n)) is not None}
    ahead = (record for n in numbers if n not in done for record in plan.chunk(n))
    sizes = {n: len(plan.chunk(n)) for n in numbers}
    with (
        tqdm(
            total=sum(sizes.values()),
            initial=sum(sizes[n] for n in done),
            unit=" images",
            desc=plan.name,
            disable=not progress,
            mininterval=0.2 if sys.stderr.isatty() else 10,  # a log file wants few lines
        ) as bar,
        made_in_order(plan.prepare, ahead, workers) as prepared,
    ):
        for n in numbers:
            if n not in done:
                done[n] = _write_one(out, f"{plan.name}-{n:06d}", islice(prepared, sizes[n]), bar)
                _write_json(_note(out, n), done[n])
    return [done[n] for n in numbers]


def _write_one(
    out: Path, stem: str, chunk: Iterable[Sample | Rejected], bar: "tqdm[Any]"
) -> dict[str, Any]:
    rejected: list[Rejected] = []
    kept: list[Sample] = []

    def accepted() -> Iterator[tuple[str, bytes, dict[str, Any]]]:
        for item in chunk:
            bar.update()
            if isinstance(item, Rejected):
                rejected.append(item)
            else:
                kept.append(item._replace(jpeg=b""))
                yield item.key, item.jpeg, item.metadata

    entry = write_shard(out, stem, accepted())
    if not entry["samples"]:  # every file of the chunk was rejected
        (out / entry["file"]).unlink()
        (out / entry["index"]).unlink()
    tally = tally_of((s.key, s.metadata, s.look, s.carried) for s in kept)
    return {"entry": entry if entry["samples"] else None, "rejected": rejected, "tally": tally}


def _note(out: Path, number: int) -> Path:
    return out / NOTES / f"{number:06d}.json"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content).encode())


def _finished(out: Path, number: int) -> dict[str, Any] | None:
    """Return the note of a shard whose files are whole, else None."""
    if not _note(out, number).is_file():
        return None
    note: dict[str, Any] = json.loads(_note(out, number).read_text())
    entry = note["entry"]
    if entry is None:
        return note
    for file, digest in (("file", "sha256"), ("index", "index_sha256")):
        path = out / entry[file]
        if not path.is_file():
            return None
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != entry[digest]:
                return None
    return note

"""Write the shards of a dataset in parallel, so that a killed build goes on where it was.

A chunk of records is a shard. Each finished shard leaves a note in OUT/.building; the manifest is
made of the notes at the end. Nothing written depends on the number of workers or on the clock.
"""

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from tqdm import tqdm

from maskedclip.data.counts import facts_of, summary_of
from maskedclip.data.shard_writer import MANIFEST, replacing, write_manifest, write_shard
from maskedclip.data.shards import read_manifest
from maskedclip.data.sources import Record

NOTES = ".building"
LOCK = ".lock"


class Sample(NamedTuple):
    """One photograph ready to be written."""

    key: str
    jpeg: bytes
    metadata: dict[str, Any]


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


def build_shards(out: Path, plan: Plan, *, workers: int, progress: bool) -> bool:
    """Write the dataset to `out`; False, and nothing done, where it is there already.

    Raises ValueError where `out` holds anything else, RuntimeError where another build writes to
    it or no file of the dataset could be read.
    """
    if _is_done(out, plan):
        return False
    _refuse_foreign(out, plan)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        if _is_done(out, plan):  # another build has just finished it
            return False
        (out / NOTES).mkdir(exist_ok=True)
        for left in [*out.glob("*.tmp"), *(out / NOTES).glob("*.tmp")]:
            left.unlink()
        _write_json(out / NOTES / "request.json", {"digest": plan.digest})
        notes = _write_all(out, plan, workers, progress)
        entries = [note["entry"] for note in notes if note["entry"]]
        if not entries:
            first = notes[0]["rejected"][0]
            shutil.rmtree(out if made else out / NOTES)
            found = f"none of its {len(plan.records)} files gives a photograph"
            raise RuntimeError(f"{plan.name}: {found}; the first, {first[0]}: {first[1]}")
        facts = plan.facts | {"digest": plan.digest} | summary_of(notes)
        write_manifest(out, plan.name, entries, **facts)
        shutil.rmtree(out / NOTES)
    return True


def _is_done(out: Path, plan: Plan) -> bool:
    if not (out / MANIFEST).is_file():
        return False
    if read_manifest(out).get("digest") != plan.digest:
        found = "holds a dataset of another request or of other files"
        raise ValueError(f"{out}: {found}; remove it or choose another --out")
    return True


def _refuse_foreign(out: Path, plan: Plan) -> None:
    if not out.exists() or all(path.name == LOCK for path in out.iterdir()):
        return
    if not (out / NOTES).is_dir():
        raise ValueError(f"{out}: is not empty and holds no dataset; choose another --out")
    request = out / NOTES / "request.json"
    if request.is_file() and json.loads(request.read_text())["digest"] != plan.digest:
        found = "holds an unfinished build of another request or of other files"
        raise ValueError(f"{out}: {found}; remove it or choose another --out")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    path = out / LOCK
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{out}: another build is writing to it; wait for it") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _write_all(out: Path, plan: Plan, workers: int, progress: bool) -> list[dict[str, Any]]:
    """Return the note of every shard, written now or by an earlier build."""
    size = plan.samples_per_shard
    starts = range(0, len(plan.records), size)
    done = {n: note for n in range(len(starts)) if (note := _finished(out, n)) is not None}
    ahead = (r for n, s in enumerate(starts) if n not in done for r in plan.records[s : s + size])
    total = len(plan.records)
    kept = sum(len(plan.records[starts[n] : starts[n] + size]) for n in done)
    with (
        tqdm(
            total=total,
            initial=kept,
            unit=" images",
            desc=plan.name,
            disable=not progress,
            mininterval=0.2 if sys.stderr.isatty() else 10,  # a log file wants few lines
        ) as bar,
        _prepared(plan.prepare, ahead, workers) as prepared,
    ):
        for number, start in enumerate(starts):
            if number not in done:
                chunk = islice(prepared, len(plan.records[start : start + size]))
                done[number] = _write_one(out, f"{plan.name}-{number:06d}", chunk, bar)
                _write_json(_note(out, number), done[number])
    return [done[number] for number in sorted(done)]


def _write_one(
    out: Path, stem: str, chunk: Iterable[Sample | Rejected], bar: "tqdm[Any]"
) -> dict[str, Any]:
    rejected: list[Rejected] = []
    facts: list[dict[str, Any]] = []

    def accepted() -> Iterator[Sample]:
        for item in chunk:
            bar.update()
            if isinstance(item, Rejected):
                rejected.append(item)
            else:
                facts.append(facts_of(item.metadata))
                yield item

    entry = write_shard(out, stem, accepted())
    if not entry["samples"]:  # every file of the chunk was rejected
        (out / entry["file"]).unlink()
        (out / entry["index"]).unlink()
    return {"entry": entry if entry["samples"] else None, "rejected": rejected, "facts": facts}


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


@contextmanager
def _prepared(
    prepare: Prepare, records: Iterable[Record], workers: int
) -> Iterator[Iterator[Sample | Rejected]]:
    """Give the prepared records in order, made in `workers` processes a few ahead."""
    if workers == 1:
        yield map(prepare, records)
        return
    # Not fork: OpenCV and the progress bar hold threads. Not threads: much of the work is Python's.
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)

    def in_order() -> Iterator[Sample | Rejected]:
        waiting: deque[Future[Sample | Rejected]] = deque()
        for record in records:
            waiting.append(pool.submit(prepare, record))
            if len(waiting) > 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield in_order()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def _end_with_parent() -> None:
    """A worker waits for work for ever where its parent was killed: end it then."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

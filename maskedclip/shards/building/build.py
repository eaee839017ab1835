"""Write the shards of a dataset in parallel, so that a killed build resumes where it stopped.

A chunk of records is a shard. Every finished shard leaves a note in OUT/.building; at the end the
manifest is made from the notes. The bytes depend neither on the number of workers or jobs nor on
the clock.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations, islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from maskedclip.data.class_order import in_order
from maskedclip.data.label_kinds import labels_in
from maskedclip.data.storage.shard_writer import MANIFEST, replacing, write_manifest, write_shard
from maskedclip.data.storage.shards import read_manifest
from maskedclip.shards.building.prepare_sample import PreparedSample, Rejected, made_in_order
from maskedclip.shards.building.quality import Quality, candidates, worst
from maskedclip.shards.downloads.records import Record

NOTES = ".building"
LOCK = ".lock"

Prepare = Callable[[Record], PreparedSample | Rejected]


class BuildPlan(NamedTuple):
    """A dataset to build; equal digests give equal bytes."""

    name: str
    records: Sequence[Record]
    prepare: Prepare  # pickled for the workers
    samples_per_shard: int
    digest: str  # of the request and of the files it reads
    facts: dict[str, Any]  # written to the manifest as they are
    classes: Mapping[str, Sequence[str]]  # of a task, in the order that a table shows them
    expected: Sequence[Mapping[str, Any]] = ()  # the published numbers, as in a card
    words: Mapping[str, dict[str, tuple[str, ...]]] = {}  # of a task, its classes in captions

    def chunk(self, number: int) -> Sequence[Record]:
        """Return the records of one shard."""
        first = number * self.samples_per_shard
        return self.records[first : first + self.samples_per_shard]

    @property
    def chunks(self) -> int:
        """How many shards there are, if no file is rejected."""
        return -(-len(self.records) // self.samples_per_shard)

    @property
    def kinds(self) -> Mapping[str, str]:
        """Of tasks that are no plain class (data/label_kinds.py)."""
        kinds: Mapping[str, str] = self.facts.get("kinds", {})
        return kinds


def build_shards(out: Path, plan: BuildPlan, *, workers: int, progress: bool) -> bool:
    """Write what is missing of the dataset at `out`; False where it was complete.

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
            count = f"none of its {len(plan.records)} files is a readable photograph"
            raise RuntimeError(f"{plan.name}: {count}; the first, {first[0]}: {first[1]}")
        facts = plan.facts | {"digest": plan.digest} | _summary(notes, plan.classes)
        facts["classes"] |= _called(facts["classes"], facts.get("class_words", {}))
        counts = facts["counts"] | {"images": len(plan.records)}
        remarks = _decoding_remarks(notes)
        numbers = {task for task, kind in plan.kinds.items() if kind == "number"}
        equal = equal_files_of_two_classes(notes, numbers)
        remarks |= {"equal_files_of_two_classes": equal} if equal else {}
        leaks = equal_files_of_two_splits(notes)
        remarks |= {"equal_files_of_two_splits": leaks} if leaks else {}
        if remarks:
            facts["remarks"] = {**facts.get("remarks", {}), **remarks}
        facts["against_published"] = compared(plan.expected, counts)
        write_manifest(out, plan.name, entries, **facts)
        shutil.rmtree(out / NOTES)
    return True


def _called(
    classes: Mapping[str, Sequence[str]], words: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, dict[str, str]]:
    """Return the classes of the tasks that a user's file words, each with what it is called."""
    return {
        task: {name: " and ".join(words[task].get(name, ())) or name for name in names}
        for task, names in classes.items()
        if task in words
    }


def build_part(out: Path, plan: BuildPlan, part: int, parts: int, *, workers: int) -> None:
    """Write every `parts`-th shard from `part` on; `begin` came before, `build_shards` comes after.

    Several parts may be written at once, on several machines. Raises as `build_shards` does.
    """
    if is_done(out, plan):
        return
    with locked(out, f"part-{part}-of-{parts}"):
        if is_done(out, plan):
            return
        _refuse_other_content(out, plan)
        _write(out, plan, range(part, plan.chunks, parts), workers, progress=True)


def begin(out: Path, plan: BuildPlan) -> bool:
    """Prepare `out` for this build; False, and nothing done, where it is finished.

    Raises ValueError where `out` holds anything else.
    """
    if is_done(out, plan):
        return False
    _refuse_other_content(out, plan)
    (out / NOTES).mkdir(parents=True, exist_ok=True)
    _write_json(out / NOTES / "request.json", {"digest": plan.digest})
    return True


def is_done(out: Path, plan: BuildPlan) -> bool:
    """Return whether `out` holds this dataset; ValueError where it holds another one."""
    if not (out / MANIFEST).is_file():
        return False
    manifest = read_manifest(out)
    if manifest.get("digest") != plan.digest:
        made, now = (f.get("created_by", {}) for f in (manifest, plan.facts))
        made, now = made.get("make_shards"), now.get("make_shards")
        if made != now:
            raise ValueError(
                f"{out}: was built by version {made} of make_shards, and version {now} reads "
                f"images of more than 8 bits another way; remove it or choose another --out"
            )
        raise ValueError(
            f"{out}: holds a dataset of another request or of other files; remove it or choose "
            f"another --out"
        )
    return True


def shards_written(out: Path) -> int:
    """Return how many shards of an unfinished build are done."""
    return sum(1 for _ in (out / NOTES).glob("[0-9]*.json"))


def _refuse_other_content(out: Path, plan: BuildPlan) -> None:
    if not out.exists() or all(path.name == LOCK for path in out.iterdir()):
        return
    if not (out / NOTES).is_dir():
        raise ValueError(f"{out}: is not empty and holds no dataset; choose another --out")
    request = out / NOTES / "request.json"
    if request.is_file() and json.loads(request.read_text())["digest"] != plan.digest:
        raise ValueError(
            f"{out}: holds an unfinished build of another request or of other files; remove it or "
            f"choose another --out"
        )


def _write(
    out: Path, plan: BuildPlan, numbers: Sequence[int], workers: int, progress: bool
) -> list[dict[str, Any]]:
    """Return the notes of these shards, written now or by an earlier build."""
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
                done[n] = _write_one(out, plan, n, islice(prepared, sizes[n]), bar)
                _write_json(_note(out, n), done[n])
    return [done[n] for n in numbers]


def _write_one(
    out: Path,
    plan: BuildPlan,
    number: int,
    chunk: Iterable[PreparedSample | Rejected],
    bar: "tqdm[Any]",
) -> dict[str, Any]:
    rejected: list[Rejected] = []
    kept: list[PreparedSample] = []

    def accepted() -> Iterator[tuple[str, bytes, dict[str, Any]]]:
        for item in chunk:
            bar.update()
            if isinstance(item, Rejected):
                rejected.append(item)
            else:
                kept.append(item._replace(jpeg=b""))
                yield item.key, item.jpeg, item.metadata

    entry = write_shard(out, f"{plan.name}-{number:06d}", accepted())
    if not entry["samples"]:  # every file of the chunk was rejected
        (out / entry["file"]).unlink()
        (out / entry["index"]).unlink()
    tally = _tally(kept, plan.kinds)
    return {"entry": entry if entry["samples"] else None, "rejected": rejected, "tally": tally}


def _note(out: Path, number: int) -> Path:
    return out / NOTES / f"{number:06d}.json"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content).encode())


def _finished(out: Path, number: int) -> dict[str, Any] | None:
    """Return the note of a shard whose files are intact, else None."""
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


def _tally(samples: Iterable[PreparedSample], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return the counts of a shard, as JSON; small, so that a million files fit into memory."""
    counts: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    remarks: dict[str, list[str]] = {}
    labels: dict[str, Counter[str]] = {}
    several: dict[str, Counter[int]] = {}  # images of a task by the number of their labels
    numbers: dict[str, list[float]] = {}
    patients: set[str] = set()
    files: list[tuple[str, str, dict[str, str], str]] = []
    qualities: list[tuple[str, Quality]] = []
    for sample in samples:
        metadata = sample.metadata
        captioned = bool(metadata["categories"] or metadata["report"])
        counts.update({"with_caption": captioned, "without_caption": not captioned})
        counts["with_report"] += metadata["report"] is not None
        counts["labelled"] += bool(metadata["labels"])
        counts["with_patient"] += metadata["patient"] is not None
        splits[metadata["split"] or "none"] += 1
        categories.update(metadata["categories"])
        removed.update(sample.carried)
        for kind, remark in sample.remarks:
            remarks.setdefault(kind, []).append(f"{metadata['source']}: {remark}")
        for task, value in metadata["labels"].items():
            if kinds.get(task) == "number":
                numbers.setdefault(task, []).append(float(value))
            elif kinds.get(task) == "labels":
                labels.setdefault(task, Counter()).update(labels_in(value))
                several.setdefault(task, Counter())[len(labels_in(value))] += 1
            else:
                labels.setdefault(task, Counter())[value] += 1
        patients |= {metadata["patient"]} - {None}
        split = metadata["split"] or ""
        files.append((metadata["sha256"], metadata["source"], metadata["labels"], split))
        qualities += [(sample.key, sample.quality)] if sample.quality else []
    return {
        "counts": counts,
        "splits": splits,
        "labels": labels,
        "several": several,
        "numbers": numbers,
        "categories": categories,
        "removed": removed,
        "remarks": remarks,
        "patients": sorted(patients),
        "copies": files,
        "looks": candidates(qualities),
    }


def _decoding_remarks(notes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what was guessed or passed over to decode the files, a line a file."""
    remarks: dict[str, list[str]] = {}
    for note in notes:
        for kind, lines in note["tally"].get("remarks", {}).items():
            remarks.setdefault(kind, []).extend(lines)
    return {kind: sorted(remarks[kind]) for kind in sorted(remarks)}


def equal_files_of_two_classes(
    notes: Sequence[Mapping[str, Any]], numbers: Collection[str] = ()
) -> list[str]:
    """Return a line for every two classes that have equal files, with a count and an example.

    Args:
        numbers: the tasks that have no classes.
    """
    found: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for note in notes:
        for digest, source, *labels in note["tally"]["copies"]:
            found.setdefault(digest, []).append((source, labels[0] if labels else {}))
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for copies in found.values():
        named = sorted((label, source) for source, labels in copies for label in labels.items())
        for ((task, one), first), ((other_task, other), second) in pairwise(named):
            if task == other_task and one != other and task not in numbers:
                pairs.setdefault((one, other), []).append((first, second))
    return [
        f"{one} and {other}: {len(files)}, such as {files[0][0]} and {files[0][1]}"
        for (one, other), files in sorted(pairs.items())
    ]


def equal_files_of_two_splits(notes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for every two published splits that have equal files, with a count."""
    found: dict[str, dict[str, str]] = {}  # of a file, a source of each split
    for note in notes:
        for digest, source, *more in note["tally"]["copies"]:
            if more[1:]:  # notes of an unfinished build may be older
                found.setdefault(digest, {}).setdefault(more[1] or "train", source)
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for sources in found.values():
        for one, other in combinations(sorted(sources), 2):
            pairs.setdefault((one, other), []).append((sources[one], sources[other]))
    return [
        f"{one} and {other}: {len(files)} files, such as {files[0][0]} and {files[0][1]}"
        for (one, other), files in sorted(pairs.items())
    ]


def _summary(
    notes: Sequence[Mapping[str, Any]], order: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the counts, duplicates and rejected files of all shards, from their notes.

    Args:
        order: of the classes of a task; other classes follow, as data/class_order.py has them.
    """
    tallies = [note["tally"] for note in notes]
    labels = {
        task: _in_order(_sum(tally["labels"].get(task, {}) for tally in tallies), order, task)
        for task in sorted({task for tally in tallies for task in tally["labels"]})
    }
    by_digest: dict[str, list[str]] = {}
    for tally in tallies:
        for digest, source, *_ in tally["copies"]:
            by_digest.setdefault(digest, []).append(source)
    qualities = [(key, Quality(*quality)) for tally in tallies for key, quality in tally["looks"]]
    counts = _sum(tally["counts"] for tally in tallies)
    samples = counts["with_caption"] + counts["without_caption"]
    partly = 0 < counts["with_patient"] < samples
    return {
        "counts": {
            "with_caption": counts["with_caption"],
            "without_caption": counts["without_caption"],
            "with_report": counts["with_report"],
            "labelled": counts["labelled"],
            "patients": len({patient for tally in tallies for patient in tally["patients"]}),
            **({"with_patient": counts["with_patient"]} if partly else {}),
            "splits": _sorted(_sum(tally["splits"] for tally in tallies)),
            "labels": labels,
            **_of_kinds(tallies),
            "categories": _sorted(_sum(tally["categories"] for tally in tallies)),
        },
        "classes": {task: list(classes) for task, classes in labels.items()},
        "duplicates": sorted(sorted(sources) for sources in by_digest.values() if len(sources) > 1),
        "removed": _sorted(_sum(tally["removed"] for tally in tallies)),
        "worst_looking": worst(qualities),
        "rejected": [
            {"source": source, "reason": reason}
            for note in notes
            for source, reason in note["rejected"]
        ],
    }


def _of_kinds(tallies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return counts of the tasks that are no plain class; nothing where there is none.

    `labels_an_image`: of a task, the number of images that have 0, 1, 2 ... of its labels.
    `numbers`: of a task, the number of images, and its lowest, median and highest value.
    """
    tasks = sorted({task for tally in tallies for task in tally.get("several", ())})
    several = {task: _sum(tally["several"].get(task, {}) for tally in tallies) for task in tasks}
    values: dict[str, list[float]] = {}
    for tally in tallies:
        for task, found in tally.get("numbers", {}).items():
            values.setdefault(task, []).extend(found)
    numbers = {
        task: {
            "images": len(found),
            "lowest": min(found),
            "median": median(found),
            "highest": max(found),
        }
        for task, found in sorted(values.items())
    }
    # by number: the notes of shards hold them as text, a tally of this process may not
    by_number = {
        task: {str(n): count for n, count in sorted((int(n), c) for n, c in counts.items())}
        for task, counts in several.items()
    }
    return ({"labels_an_image": by_number} if by_number else {}) | (
        {"numbers": numbers} if numbers else {}
    )


def _sum(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _in_order(
    counts: Mapping[str, int], order: Mapping[str, Sequence[str]], task: str
) -> dict[str, int]:
    known = [name for name in order.get(task, ()) if name in counts]
    return {name: counts[name] for name in [*known, *in_order(counts.keys() - set(known))]}


def compared(expected: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the counts of a build with the published ones: they show an incomplete download.

    Args:
        expected: the published forms of the dataset, with the number of images and, where known, of
            labelled ones, splits and labels (task, class, number); empty where nothing is known.
        counts: `images` (files, also rejected ones), `labelled`, `splits` and `labels` of samples.

    Returns the nearest form and the differences, such as "images: 300 of 516"; {} where nothing is
    expected.
    """
    if not expected:
        return {}
    nearest = min(expected, key=lambda form: abs(form["images"] - counts["images"]))
    totals = [name for name in ("images", "labelled") if name in nearest]
    published = {name: {"": nearest[name]} for name in totals}
    actual = {name: {"": counts[name]} for name in totals}
    published["splits"], actual["splits"] = nearest.get("splits", {}), counts["splits"]
    published |= nearest.get("labels", {})
    actual |= counts["labels"]
    lines = []
    for what, numbers in published.items():
        present = actual.get(what, {})
        differing = [name for name in numbers if present.get(name, 0) != numbers[name]]
        texts = (f"{name} {present.get(name, 0):,} of {numbers[name]:,}" for name in differing)
        lines += [f"{what}: {', '.join(text.strip() for text in texts)}"] if differing else []
    return {"form": nearest["form"], "differences": lines}


@contextmanager
def locked(out: Path, part: str = "") -> Iterator[None]:
    """Lock the directory alone, or, with `part`, beside the other parts of the same build.

    Raises RuntimeError where another build, or the same part, holds it. The system releases a lock
    when its process ends, however it ends.
    """
    with _held(out / LOCK, alone=not part, remove=not part):
        if not part:
            yield
        else:
            with _held(out / f"{LOCK}-{part}", alone=True, remove=True):
                yield


@contextmanager
def _held(path: Path, *, alone: bool, remove: bool) -> Iterator[None]:
    file = _open_locked(path, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        file.close()


def _open_locked(path: Path, kind: int) -> TextIO:
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RuntimeError(f"{path.parent}: another build is writing to it; wait") from None
        # its previous holder may have removed the file that is locked now: try the new one
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()

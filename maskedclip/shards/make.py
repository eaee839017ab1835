"""Turn a downloaded dataset into shards: the request, its build, and what follows the shards."""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from maskedclip.data.class_order import in_order

if TYPE_CHECKING:  # these import OpenCV, and `--help` must not wait for that
    from maskedclip.data.captions import Wording
    from maskedclip.shards.building.build import BuildPlan
    from maskedclip.shards.downloads.cards import DatasetCard
    from maskedclip.shards.downloads.folder_or_csv import Columns
    from maskedclip.shards.downloads.records import Sources


@dataclass(frozen=True, kw_only=True)
class ShardRequest:
    """One dataset to build; the fields are the flags of tools/make_shards.py."""

    dataset: str
    root: Path | None = None  # folder of the download (phantom has none)
    out: Path | None = None  # where the shards go; None: shards/NAME
    name: str = ""  # that the shards carry; empty: DATASET, of folder and csv OUT's
    size: int = 512  # pixels; a larger field of view is reduced to it, none is enlarged
    quality: int = 95  # of the JPEGs
    workers: int = 0  # processes; 0 for all cores
    samples_per_shard: int = 1000
    anonymise: bool = False  # hash the file names too, with a secret key
    key_file: Path | None = None  # that key; None: OUT/../.maskedclip_key, made at first use
    classes: str = ""  # folder: the task whose class the folder of an image is
    exclude: tuple[str, ...] = ()  # folder: names or globs of folders that are left out
    classes_order: tuple[str, ...] = ()  # folder, csv: the classes as grades, the lowest first
    class_words: Path | None = None  # folder, csv: of a class in captions; a CSV or TOML
    csv: Path | None = None  # csv: the table; the following name its columns
    image_column: str = ""  # file name or path; needed
    label_column: str = ""  # with --task
    label_columns: tuple[str, ...] = ()  # of 0 and 1: several labels an image; with --task
    label_separator: str = ""  # of several labels in a cell of --label_column; rows: a row each
    number_column: str = ""  # of an age, a ratio ...; its task is --task or the column's name
    task: str = ""  # what the label is called
    patient_column: str = ""
    eye_column: str = ""
    split_column: str = ""
    report_column: str = ""
    categories_column: str = ""
    patient_pattern: str = ""  # of file names, a group the patient; none: names state no patient
    lost_zeros: bool = False  # csv: take "1" for 001.jpg where one image alone has that number
    keep_codes: bool = False  # csv: -1, 99, 999 and "unknown" are answers, and no empty cells
    count: int = 2000  # phantom: how many images are drawn
    seed: int = 0  # phantom: and which
    findings: bool = False  # phantom: label what is drawn (several an image) and a ratio too
    caption_template: str = ""  # of the examples that are printed; empty: of the card
    jobs: int = 1  # that share the build out
    cluster: str = "auto"  # slurm where sbatch is, else local: this machine
    hours: int = 24  # time limit of a job on slurm; a longer build goes on after it
    partition: str = ""
    account: str = ""
    qos: str = ""
    memory_gb: int = 0  # of a job, asked of slurm

    def __post_init__(self) -> None:
        limits = {
            "size": (32, 8192),
            "quality": (50, 100),
            "workers": (0, 1024),
            "samples_per_shard": (1, 100_000),
            "jobs": (1, 1000),
            "hours": (1, 10_000),
            "memory_gb": (0, 100_000),
            "count": (1, 10**8),
            "seed": (0, 10**8),
        }
        for flag, (low, high) in limits.items():
            if not low <= getattr(self, flag) <= high:
                value = getattr(self, flag)
                raise ValueError(f"--{flag} {value} is out of range; use {low} to {high}")
        if self.cluster not in ("auto", "slurm", "local"):
            raise ValueError(f"--cluster {self.cluster}: use auto, slurm or local")
        if self.caption_template and "[CLS]" not in self.caption_template:
            raise ValueError(
                f"--caption_template {self.caption_template!r} has no [CLS]; put it where words go"
            )
        self._check_classes()
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.dataset_name):
            raise ValueError(f"--name {self.dataset_name!r}: use letters, digits, _ and - only")

    def _check_classes(self) -> None:
        for flag, name in (("classes", self.classes), ("task", self.task)):
            if re.search(r"[/\\\x00-\x1f]", name) or name.startswith("."):
                raise ValueError(
                    f"--{flag} {name!r}: it is the name of a task and of its split's file; write "
                    f"it without / and \\, and no . first"
                )
        several = self.label_columns or self.label_separator not in ("", "none")
        if self.classes_order and (several or (self.number_column and not self.label_column)):
            raise ValueError("--classes_order is of grades: not of several labels, nor of numbers")
        if self.class_words and not (self.classes or self.task):
            raise ValueError("--class_words is of classes; add --classes or --task")
        if self.classes_order and not (self.classes or self.task):
            raise ValueError("--classes_order is the order of labels; add --classes or --task")
        if len(set(self.classes_order)) < len(self.classes_order):
            raise ValueError(
                f"--classes_order {','.join(self.classes_order)}: a class is named twice; name "
                f"each once, the lowest first"
            )
        if self.patient_pattern not in ("", "none"):
            from maskedclip.shards.downloads.patient_names import compiled

            compiled(self.patient_pattern)  # a mistake ends here, before hours of reading

    @property
    def dataset_name(self) -> str:
        """The name that the shards carry: results of two datasets of one name are the same rows."""
        if self.name:
            return self.name
        if self.dataset.endswith(".toml"):
            from maskedclip.shards.downloads.cards import read_card

            return read_card(self.dataset).name
        if self.out is None or self.dataset not in ("folder", "csv"):
            return Path(self.dataset).stem
        return re.sub(r"[^A-Za-z0-9_-]+", "_", self.out.resolve().name).strip("_") or self.dataset

    @property
    def directory(self) -> Path:
        """Where the shards go."""
        return self.out or Path("shards") / self.dataset_name


SAID_OF_FOLDERS = (  # remarks that change no sample
    "folders_taken_as_splits", "pooled_folders_above_classes", "classes_of_one_split_alone",
    "counts_in_names_of_classes", "folders_in_each_class", "empty_class_folders",
    "copies_in_names", "copies_in_another_split", "copies_of_unknown_images",
    "masks_left_out", "parallel_folders", "classes_above_splits", "splits_in_file_names",
    "only_one_class", "classes_that_differ_in_a_number", "columns_that_look_like_splits",
)  # fmt: skip
PUBLIC_KEY = b"maskedclip public key: no secret"
KEY_FILE = ".maskedclip_key"
BUILDER_VERSION = 3  # raise it where the same request would give other bytes
_VERSION_OF_8_BITS = 2  # of files of 8 bits a colour alone: version 3 reads deeper ones anew
_8_BITS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".webp"))


def builder_version(sources: Iterable[str]) -> int:
    """Return the version of what turns these files into bytes; no build is made again for less."""
    eight = all(PurePath(source).suffix.lower() in _8_BITS for source in sources)
    return _VERSION_OF_8_BITS if eight else BUILDER_VERSION


class Summary(NamedTuple):
    """The result of a build."""

    directory: Path
    manifest: dict[str, Any]
    captions: tuple[tuple[str, tuple[str, ...]], ...]  # (source, its possible captions)
    splits: dict[str, Path | str]  # of a task, its file, or why it has none
    sizes: dict[str, list[str]]  # of a task that has a split, what it holds, in words
    words: dict[str, dict[str, tuple[str, ...]]]  # of a task, its classes in captions
    built: bool  # False where it was there already
    seconds: float


def build(request: ShardRequest, *, progress: bool = True) -> Summary:
    """Build one dataset; ValueError, RuntimeError or OSError with a message of one line."""
    from maskedclip.shards.building.build import build_shards

    start = time.monotonic()
    plan = plan_of(request)
    built = build_shards(request.directory, plan, workers=cores(request), progress=progress)
    return finish(request, plan, built, start)


def finish(request: ShardRequest, plan: "BuildPlan", built: bool, start: float) -> Summary:
    """Write what the finished shards lack: contact sheet and splits."""
    from maskedclip.data.captions import wording_of
    from maskedclip.data.splits import write_missing_splits
    from maskedclip.data.storage.shards import Shards
    from maskedclip.shards.building.contact_sheet import FILE, write_contact_sheet
    from maskedclip.shards.split_sizes import split_lines

    shards = Shards(request.directory)
    if not (request.directory / FILE).is_file():
        write_contact_sheet(shards, request.directory / FILE)
    splits = write_missing_splits(shards)
    return Summary(
        directory=request.directory,
        manifest=shards.manifest,
        captions=_example_captions(
            [shards.metadata(i) for i in range(0, len(shards), max(1, len(shards) // 200))],
            wording_of(shards.manifest, request.caption_template),
        ),
        splits=splits,
        sizes={t: split_lines(shards, t) for t, file in splits.items() if isinstance(file, Path)},
        words=dict(plan.words),
        built=built,
        seconds=time.monotonic() - start,
    )


def cores(request: ShardRequest) -> int:
    """Return the number of processes of a build."""
    return request.workers or len(os.sched_getaffinity(0))


def plan_of(request: ShardRequest) -> "BuildPlan":
    """Read the labels and list the files of a request; nothing is written but a missing key."""
    from maskedclip.shards.building.build import BuildPlan
    from maskedclip.shards.building.prepare_sample import prepare_phantom, prepare_photograph
    from maskedclip.shards.downloads.cards import read_card
    from maskedclip.shards.downloads.files import size_and_time

    card = read_card(request.dataset)
    card = replace(card, exclude=(*card.exclude, *(glob.lower() for glob in request.exclude)))
    sources = _sources_with_patients(request, card)
    key = _key(request)
    drawn = card.reader == "phantom"
    photographs = partial(prepare_photograph, whole=card.field == "whole")
    prepare = partial(
        partial(prepare_phantom, findings=request.findings) if drawn else photographs,
        name=request.dataset_name,
        size=request.size,
        quality=request.quality,
        key=key,
        anonymise=request.anonymise,
    )
    facts = _facts(request, card, sources, key)
    # not what changes no sample: datasets built before it was counted are the same
    counted = (
        "files_not_read", "patients_in_several_splits", "folders_that_are_one",
        "patients_that_differ_in_zeros", "images_that_left_a_task", *SAID_OF_FOLDERS,
    )  # fmt: skip
    remarks = {name: texts for name, texts in facts["remarks"].items() if name not in counted}
    digest = hashlib.sha256(repr((request.dataset_name, facts | {"remarks": remarks})).encode())
    for record in sources.records:
        size = 0 if drawn else size_and_time(record.path)[0]
        digest.update(ascii((record._replace(path=Path()), size)).encode())
    return BuildPlan(
        name=request.dataset_name,
        records=sources.records,
        prepare=prepare,
        samples_per_shard=request.samples_per_shard,
        digest=digest.hexdigest(),
        facts=facts,
        classes=_orders(request, card, sources),
        words=sources.words,
        expected=card.expected,
    )


def _orders(request: ShardRequest, card: "DatasetCard", sources: "Sources") -> dict[str, list[str]]:
    """Return the classes of each task as the card or --classes_order has them.

    Raises ValueError for a class of the images that --classes_order does not name.
    """
    orders = {task: list(classes) for task, classes in card.classes.items()}
    orders |= {task: list(classes) for task, classes in sources.classes.items()}
    if not request.classes_order:
        return orders
    task = request.classes or request.task
    present = {record.labels[task] for record in sources.records if task in record.labels}
    missing = in_order(present - {*request.classes_order})
    if missing:
        raise ValueError(
            f"--classes_order {','.join(request.classes_order)}: has not {', '.join(missing[:8])}, "
            f"which images have; name all of {','.join(in_order(present))}"
        )
    return orders | {task: list(request.classes_order)}


def _facts(
    request: ShardRequest, card: "DatasetCard", sources: "Sources", key: bytes
) -> dict[str, Any]:
    """Return the request as the manifest holds it: no path, no time, no number of workers."""
    import cv2
    import simplejpeg

    names = ["size", "quality", "samples_per_shard", "anonymise", "classes", "task"]
    names += ["count", "seed"] if card.reader == "phantom" else []
    flags = ("findings", "classes_order", "exclude")
    names += [name for name in flags if getattr(request, name)]
    names += ["patient_pattern"] if request.patient_pattern else []
    ordered = [*card.ordered] + [request.classes or request.task] * bool(request.classes_order)

    secret = f"by secret key {hashlib.blake2b(key, digest_size=4).hexdigest()}"
    public = "by the public key: whoever has the file names can recompute them"
    return {
        "recipe": {"name": card.name, "title": card.title, "role": card.role},
        "licence": card.licence,
        "citation": card.citation,
        "published_images": card.images,
        "settings": {name: getattr(request, name) for name in names},
        **({"ordered": ordered} if ordered else {}),  # tasks whose classes are stated to be grades
        # what the user's file calls the classes in captions
        **({"class_words": sources.words} if request.class_words else {}),
        **({"kinds": sources.kinds} if sources.kinds else {}),  # of tasks that are no plain class
        **({} if card.field == "round" else {"field": card.field}),
        **card.captions,
        "pseudonyms": public if key == PUBLIC_KEY else secret,
        "remarks": _hidden(sources.remarks, key) if request.anonymise else sources.remarks,
        "created_by": {
            "make_shards": _VERSION_OF_8_BITS
            if card.reader == "phantom"
            else builder_version(record.source for record in sources.records),
            "simplejpeg": simplejpeg.__version__,
            "opencv": cv2.__version__,
        },
    }


def _hidden(remarks: dict[str, list[str]], key: bytes) -> dict[str, list[str]]:
    """Return the remarks without names of files or folders: their counts, and known datasets."""
    from maskedclip.shards.building.prepare_sample import keyed_hash

    def hidden(remark: str) -> str:
        not_read = re.fullmatch(r"(\d+ (\.\w{1,5}|\w+ an ending): not read), .*", remark, re.DOTALL)
        if not_read:
            return not_read[1]
        left = re.fullmatch(r"([^:]+: \d+ images left it, [\w ]+), such as .*", remark, re.DOTALL)
        if left:
            return left[1]
        patients = re.fullmatch(r"(\d+ patients of \d+ .*), such as .*", remark, re.DOTALL)
        if patients or re.fullmatch(r"\d+ (of \d+ patients|patients of \d+ images)", remark):
            return patients[1] if patients else remark
        if copies := re.fullmatch(r"(\d+ of \d+ originals|\d+ images\b).*", remark, re.DOTALL):
            return copies[1]
        counted = re.fullmatch(r"(.*): (\d+ \w+)", remark)  # such as "masks: 40 images"
        return (
            f"{keyed_hash(counted[1], key)}: {counted[2]}" if counted else keyed_hash(remark, key)
        )

    texts_of = {name: [hidden(remark) for remark in texts] for name, texts in remarks.items()}
    known = [remark.partition(":")[0] for remark in remarks.get("known_datasets", ())]
    return texts_of | ({"known_datasets": known} if known else {})


def _sources_with_patients(request: ShardRequest, card: "DatasetCard") -> "Sources":
    from maskedclip.shards.downloads.copies_in_names import with_copies
    from maskedclip.shards.downloads.dicom_headers import with_dicom_headers
    from maskedclip.shards.downloads.patient_names import with_patients

    sources = _sources(request, card)
    if card.reader == "phantom":
        return sources
    sources = with_dicom_headers(sources, request.patient_pattern)
    sources = with_patients(sources, request.patient_pattern, bool(request.classes))
    return with_copies(sources) if card.reader in ("folder", "csv") else sources


def _columns(request: ShardRequest) -> "Columns":
    """Return the columns of a csv; ValueError where flags do not fit together."""
    from maskedclip.shards.downloads.folder_or_csv import Columns

    labelled = request.label_column or ", ".join(request.label_columns)
    if labelled and not request.task:
        flag = "--label_column" if request.label_column else "--label_columns"
        raise ValueError(f"{flag} needs --task, the name of the label; see --help")
    if request.label_column and request.label_columns:
        raise ValueError("--label_column and --label_columns are two tasks; build one at a time")
    if request.label_separator and not request.label_column:
        raise ValueError("--label_separator is between labels of --label_column; add that")
    number_task = request.task
    if request.number_column and (labelled or not request.task):
        number_task = re.sub(r"[^\w-]+", "_", request.number_column).strip("_")
        if number_task in ("", request.task):
            raise ValueError(
                f"--number_column {request.number_column!r} would be the task {number_task!r} too; "
                f"give the labels another --task"
            )
    return Columns(
        image=request.image_column,
        keep_codes=request.keep_codes,
        label=request.label_column,
        task=request.task,
        labels=request.label_columns,
        separator=request.label_separator,
        number=request.number_column,
        number_task=number_task,
        patient=request.patient_column,
        eye=request.eye_column,
        split=request.split_column,
        report=request.report_column,
        categories=request.categories_column,
    )


def _sources(request: ShardRequest, card: "DatasetCard") -> "Sources":
    from maskedclip.shards.building.prepare_sample import PHANTOM_KINDS
    from maskedclip.shards.downloads.class_words import read_class_words
    from maskedclip.shards.downloads.folder_or_csv import read_csv, read_folder
    from maskedclip.shards.downloads.odir import read_odir
    from maskedclip.shards.downloads.records import Record, Sources, read_dataset
    from maskedclip.shards.downloads.stare import read_stare
    from maskedclip.shards.phantoms.phantom import FINDINGS

    if card.reader == "phantom":
        numbers = range(request.seed, request.seed + request.count)
        records = [Record(f"phantom/{n:09d}", Path()) for n in numbers]
        if not request.findings:
            return Sources(records, {})
        return Sources(records, {}, PHANTOM_KINDS, {"findings": FINDINGS})
    if request.root is None:
        raise ValueError(f"--root is missing; give the folder that was downloaded ({card.title})")
    words = read_class_words(request.class_words) if request.class_words else None
    if card.reader == "folder":
        return read_folder(card, request.root, request.classes, words)
    if card.reader == "csv":
        if request.csv is None or not request.image_column:
            raise ValueError("csv needs --csv FILE and --image_column NAME; see --help")
        columns = _columns(request)
        return read_csv(
            card, request.root, request.csv, columns, lost_zeros=request.lost_zeros, words=words
        )
    readers = {"card": read_dataset, "odir": read_odir, "stare": read_stare}
    if card.reader not in readers:
        known = ", ".join(readers)
        raise ValueError(f"{request.dataset}: unknown reader {card.reader!r}; use one of {known}")
    return readers[card.reader](card, request.root)


def _key(request: ShardRequest) -> bytes:
    """Return the key of the pseudonyms: public, from --key_file, or made once beside the output."""
    if request.key_file is None and not request.anonymise:
        return PUBLIC_KEY
    path = request.key_file or request.directory.parent / KEY_FILE
    if request.key_file is None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    if not path.is_file():
        raise ValueError(f"--key_file {path}: no such file; `openssl rand -hex 32` writes a key")
    content = path.read_bytes().strip()
    if len(content) < 16:
        raise ValueError(f"--key_file {path}: {len(content)} bytes are too few; use 16 or more")
    return hashlib.sha256(content).digest()


def _example_captions(
    samples: list[dict[str, Any]], wording: "Wording"
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return three samples with different captions, and all possible captions of each."""
    from maskedclip.data.captions import captions

    source_of: dict[tuple[str, ...], str] = {}
    for sample in samples:
        possible = tuple(captions(sample["categories"], sample["report"], wording))
        source_of.setdefault(possible, sample["source"])
    source_of.pop((), None)
    most = sorted(source_of, key=lambda possible: (-len(possible), possible))
    return tuple((source_of[possible], possible) for possible in most[:3])

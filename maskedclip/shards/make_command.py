"""The command line of make_shards."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from maskedclip.command import CommandLine, Given, Options, Word, one_line_errors
from maskedclip.next_step import next_lines, pretrain_command, too_few, tune_command
from maskedclip.shards.make import SAID_OF_FOLDERS, ShardRequest, Summary, build

HELP = """\
Turn a downloaded dataset into shards.

    python tools/make_shards.py DATASET --root DIR [--out shards/DATASET]
    python tools/make_shards.py --list        every dataset: role, images, licence, how to obtain

DATASET may also be a card of your own, a file like maskedclip/shards/cards/eyepacs.toml; folder
(--classes TASK: the folder of an image is its class) and csv (--csv FILE --image_column NAME: a
table) need no card. With --jobs N the build is shared out to an array on SLURM, elsewhere to
processes; the bytes are the same. A killed build goes on where it was when the same
command is given again.
"""
ONLY_FOR = {
    **dict.fromkeys(("classes", "exclude"), "folder"),
    **dict.fromkeys(("csv", "image_column", "label_column", "task", "patient_column"), "csv"),
    **dict.fromkeys(("eye_column", "split_column", "report_column", "categories_column"), "csv"),
    **dict.fromkeys(("label_columns", "label_separator", "number_column", "lost_zeros"), "csv"),
    "keep_codes": "csv",
    **dict.fromkeys(("count", "seed", "findings"), "phantom"),
}
MOST_LISTED = 12  # folders or endings in a line
ALL_NAMED = ("left_out_folders", "files_not_read", "folders_that_are_one", *SAID_OF_FOLDERS)
OF_COPIES = (
    "copies_in_names", "copies_in_another_split", "copies_of_unknown_images",
    "equal_files_of_two_splits",
)  # fmt: skip
MOST_CLASSES = 60
ONLY_WITH_JOBS = ("cluster", "hours", "partition", "account", "qos", "memory_gb")


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """What is shown instead of a build."""

    list: bool = False  # every dataset: role, images, licence, how to obtain


MAKE_SHARDS = CommandLine(
    Options(ShardRequest(dataset="DATASET"), hidden=["dataset"]),
    Options(ListConfig(), "Instead of a build:"),
    words=[Word("DATASET", least=0)],
)


def parse(arguments: Sequence[str]) -> ShardRequest:
    """Return the request of a command line; ValueError, in one line, where it asks for nonsense."""
    return _request(MAKE_SHARDS.parse(arguments))


def _request(given: Given) -> ShardRequest:
    flags = given.changes[0]
    for flag in ONLY_WITH_JOBS:
        if flag in flags and flags.get("jobs", "1") == "1":
            raise ValueError(f"--{flag} is only for --jobs; add --jobs=N or remove it")
    if not given.words:
        raise ValueError("one dataset is needed, 0 given; see --help and --list")
    dataset = _known(given.words[0], flags)
    request: ShardRequest = given.config(0, ShardRequest(dataset=dataset))
    return request


def _known(dataset: str, flags: Mapping[str, Any]) -> str:
    from maskedclip.shards.downloads.cards import read_card

    card = read_card(dataset)
    for flag in flags:
        if flag in ONLY_FOR and card.reader != ONLY_FOR[flag]:
            raise ValueError(f"--{flag} is only for {ONLY_FOR[flag]}, not for {dataset}; remove it")
    if "class_words" in flags and card.reader not in ("folder", "csv"):
        raise ValueError(
            f"--class_words is only for folder and csv: a card words the classes of {dataset}; "
            f"remove it, or change [classes.TASK] in a card of your own"
        )
    if "classes_order" in flags and card.reader not in ("folder", "csv"):
        raise ValueError(
            f"--classes_order is only for folder and csv: a card states the order of {dataset}; "
            f"remove it, or write `ordered` into a card of your own"
        )
    for flag in ("root", "patient_pattern"):
        if card.reader == "phantom" and flag in flags:
            raise ValueError(f"phantom has no --{flag}: the images are drawn; remove it")
    return dataset


def listing() -> str:
    """Return every dataset there is a card for."""
    from maskedclip.shards.downloads.cards import card_names, read_card

    lines = []
    for name in card_names():
        card = read_card(name)
        images = f"{card.images:,} images" if card.images else "any number of images"
        lines += [
            f"{name}: {card.title}",
            f"    {card.role}; {images}; licence: {card.licence}",
            f"    {card.obtain}",
        ]
    return "\n".join(lines) + "\n"


def report(summary: Summary) -> str:
    """Return what a build has left behind, in words."""
    manifest = summary.manifest
    rejected: dict[str, list[str]] = {}
    for entry in manifest["rejected"]:
        rejected.setdefault(entry["reason"], []).append(entry["source"])
    lines = [
        f"{manifest['samples']:,} samples in {len(manifest['shards'])} shards, "
        f"{manifest['counts']['with_caption']:,} with a caption, in {summary.seconds:.0f} s"
        if summary.built
        else f"nothing to do: the {manifest['samples']:,} samples of this request are there",
        f"splits: {_listed(manifest['counts']['splits'])}",
        *_labels(manifest["counts"]),
        *_grades(manifest),
        *(
            f"rejected: {len(sources)} {reason}, such as {sources[0]}"
            for reason, sources in sorted(rejected.items())
        ),
        *remark_lines(manifest["remarks"]),
        *_fundus_words(manifest),
        *_patients(manifest),
        *_published(manifest["against_published"]),
    ]
    if manifest["duplicates"]:
        lines.append(f"groups of equal files, all kept: {len(manifest['duplicates'])}")
    for task, words in summary.words.items():
        lines += _worded(task, words, manifest)
    for source, possible in summary.captions:
        lines += [f"a caption of {source} is one of {len(possible)}:", *_indented(possible)]
    for task, file in summary.splits.items():
        lines.append(f"no split: {file}" if isinstance(file, str) else f"split of {task}: {file}")
        lines += _indented(summary.sizes.get(task, ()))
    lines += [f"contact sheet: {summary.directory / 'contact_sheet.png'}", *_next(summary)]
    return "\n".join(lines) + "\n"


def _fundus_words(manifest: Mapping[str, Any]) -> list[str]:
    """Return a warning where captions would call images of another kind fundus photographs."""
    own = manifest.get("captions") or {}
    if (
        manifest.get("field") != "whole"
        or own.get("template")
        or not manifest["counts"]["with_caption"]
    ):
        return []
    return [
        'WARNING: field = "whole" without a template: captions call these images fundus '
        'photographs; give the card one, such as template = "An OCT B-scan of [CLS]"'
    ]


def _labels(counts: Mapping[str, Any]) -> list[str]:
    """Return a line for every task: images by class or label, or the range of its numbers."""
    lines = []
    for task, found in counts["labels"].items():
        several = counts.get("labels_an_image", {}).get(task)
        each = f"; images with {_by_number(several)}" if several else ""
        lines.append(f"{task}: {_listed(found)}{each}")
    for task, found in counts.get("numbers", {}).items():
        low, middle, high = (f"{found[name]:g}" for name in ("lowest", "median", "highest"))
        lines.append(f"{task}: {found['images']:,} numbers, {low} to {high}, median {middle}")
    return lines


def _grades(manifest: Mapping[str, Any]) -> list[str]:
    """Return a line for every task of three or more classes: whether their order is of grades."""
    from maskedclip.data.labelled import classes_of

    fixes = {
        "folder": "--classes_order, or --exclude a folder that is no grade",
        "csv": "--classes_order where they are grades",
    }
    fix = fixes.get(manifest["recipe"]["name"], "`ordered` of a card where they are grades")
    lines = []
    for task, found in manifest["counts"]["labels"].items():
        if len(found) < 3 or task in manifest.get("kinds", {}):
            continue
        classes, ordered = classes_of(manifest, task, found.keys())
        more = ", ..." if classes[MOST_LISTED:] else ""
        lines.append(
            f"{task}: classes taken as grades in this order: "
            f"{', '.join(classes[:MOST_LISTED])}{more}"
            if ordered
            else f"{task}: no known order of grades: no quadratic kappa; {fix}"
        )
    return lines


def _worded(
    task: str, words: Mapping[str, Sequence[str]], manifest: Mapping[str, Any]
) -> list[str]:
    """Return what captions call the classes of a task, and which of them have no caption.

    Zero-shot has words for some of these, by the task's name; no images are paired with a guess.
    """
    from maskedclip.data.captions import class_categories  # NumPy, which --help does without

    counts, published = manifest["counts"], manifest["classes"].get(task)
    images = dict(counts["labels"].get(task, {}))
    bare = counts.get("labels_an_image", {}).get(task, {}).get("0", 0)
    if bare:  # examined, and none of the labels
        images |= {"": bare}
    said = {name: ", ".join(words.get(name, ())) for name in images}
    called = class_categories(task, [*images], published)
    guessed = {n: word for n, word in zip(images, called, strict=True) if not said[n] and word != n}
    lines = [
        f"{name or '(none of them)'} -> {said[name] or 'NO CAPTION'} ({count:,} images)"
        + (f"; zero-shot takes it for {guessed[name]!r}" if name in guessed else "")
        for name, count in images.items()
    ]
    more = [f"and {len(lines) - MOST_CLASSES} more"] if lines[MOST_CLASSES:] else []
    lines = [f"captions of {task}, by class:", *_indented(lines[:MOST_CLASSES] + more)]
    silent = [name for name in images if not said[name]]
    if silent and counts["without_caption"]:
        names = ", ".join(f"{name!r}" for name in silent[:MOST_LISTED])
        lines.append(
            f"no caption for {len(silent)} of these classes: {counts['without_caption']:,} images "
            f"cannot be paired; --class_words=FILE words them, a CSV with the columns class and "
            f"words: {names}"
        )
    if guessed:
        lines.append(
            f"zero-shot takes them for the grades that public datasets have, as the task is called "
            f"{task}; captions of pre-training need words that are stated"
        )
    return lines


def _by_number(several: Mapping[str, int]) -> str:
    """Return how many images have 0, 1, 2 ... labels."""
    words = (f"{n} label{'s' * (n != '1')} {count:,}" for n, count in several.items())
    return ", ".join(words)


def remark_lines(remarks: Mapping[str, Sequence[str]], command: str = "") -> list[str]:
    """Return a line for every kind of remark, with an example; of what is left out, with all.

    Args:
        command: what takes --patient_pattern; "" for the one that was given.
    """
    command = f"{command} " if command else ""
    lines = []
    for name, found in remarks.items():
        if name in OF_COPIES:
            lines.append(_on_copies(name, found))
        elif name.startswith("patients_"):
            lines.append(_on_patients(name, found, command))
        elif name == "images_that_left_a_task":
            lines += found  # a task each
        elif name == "images_with_an_empty_label" and "images_that_left_a_task" in remarks:
            continue  # of all tasks together
        elif name == "taken_as_one_class":
            lines += _on_classes(found)
        elif name == "equal_files_of_two_classes":
            listed = "; ".join(found[:MOST_LISTED])
            hint = (
                "one class is wrong: correct its row; in a tree --exclude=FOLDER leaves a folder "
                "out, as does moving it"
            )
            lines.append(f"equal files of two classes: {listed} ({hint})")
        elif name in ALL_NAMED:
            more = f"; and {len(found) - MOST_LISTED} more" if found[MOST_LISTED:] else ""
            lines.append(f"{name.replace('_', ' ')}: {'; '.join(found[:MOST_LISTED])}{more}")
        else:
            lines.append(f"{name.replace('_', ' ')}: {len(found)}, such as {found[0]}")
    return lines


def _on_classes(found: Sequence[str]) -> list[str]:
    """Return a line on classes that may be several labels, and one on those that are no number."""
    odd = [text for text in found if " (beside " in text]
    others = [text for text in found if text not in odd]
    said = {"classes that are no number, as the others are": odd, "taken as one class": others}
    return [f"{what}: {len(texts)}, such as {texts[0]}" for what, texts in said.items() if texts]


def _on_copies(name: str, found: Sequence[str]) -> str:
    """Return the line of a remark on copies that names state, and on equal files in two splits."""
    return {
        "copies_in_names": f"copies of images: {found[0]}",
        "copies_in_another_split": (
            f"WARNING: {found[0]} stand in more than one split; kept as they are"
        ),
        "copies_of_unknown_images": (
            f"WARNING: {found[0]}: copies, and their names do not say of which images; a drawn "
            f"split parts them from their originals: --exclude their folder, or check_shards"
        ),
        "equal_files_of_two_splits": (
            f"WARNING: equal files of two splits: {'; '.join(found)}; kept as published, and "
            f"check_shards --drop leaves them out"
        ),
    }[name]


def _on_patients(name: str, found: Sequence[str], command: str) -> str:
    """Return the line of a remark on patients."""
    return {
        "patients_from_names": (
            f"patients read from file names: {found[0]}; "
            f"{command}--patient_pattern=... to change, --patient_pattern=none to refuse"
        ),
        "patients_that_differ_in_zeros": (
            f"{found[0]}: kept apart; check_shards names images of both that look alike, and "
            f"{command}--patient_pattern='0*(\\d+)_...' makes them one"
        ),
        "patients_from_dicom": f"patients read from DICOM headers: {found[0]}",
        "patients_unknown": f"rows without a patient: {'; '.join(found[:MOST_LISTED])}",
        "patients_in_several_splits": (
            f"WARNING: {found[0]} stand in more than one split; the splits are kept as they are"
        ),
    }.get(name, f"{name.replace('_', ' ')}: {len(found)}, such as {found[0]}")


def _patients(manifest: Mapping[str, Any]) -> list[str]:
    """Return how many samples have a known patient, where it is not all or the names say it."""
    counts, samples = manifest["counts"], manifest["samples"]
    if not counts["patients"]:
        own = manifest["recipe"]["name"] in ("folder", "csv")
        fix = "; --patient_pattern=REGEX reads them from file names" if own else ""
        return [f"patients unknown: splits and intervals will draw images{fix}"]
    known = counts.get("with_patient", samples)
    of = f", known of {known:,} of {samples:,} samples" if known < samples else ""
    copies = " (where none is known, an image with its copies)"
    more = copies if "copies_in_names" in manifest["remarks"] else ""
    return [f"patients: {counts['patients']:,}{of}{more}"]


def _published(against: Mapping[str, Any]) -> list[str]:
    if not against:
        return []
    if not against["differences"]:
        return [f"all numbers as published: {against['form']}"]
    return [
        f"WARNING: not the published numbers ({against['form']}); is the download complete?",
        *_indented(against["differences"]),
    ]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _next(summary: Summary) -> list[str]:
    """Return the commands that this dataset is good for, by what the paper uses it for."""
    from maskedclip.data.stated_tests import stated_tests  # NumPy, which --help does without

    manifest, directory = summary.manifest, summary.directory
    role = manifest["recipe"]["role"]
    if manifest["recipe"]["name"] in ("folder", "csv"):
        role = "paired" if manifest["counts"]["with_caption"] else "unpaired"
    # what is tuned below is tested on these images
    tested = any(isinstance(file, Path) for file in summary.splits.values())
    images = manifest["samples"] - (stated_tests(directory) if tested else 0)
    own, none = {directory: images}, dict[Path, int]()
    paired, unpaired = (own, none) if role == "paired" else (none, own)
    train = pretrain_command(paired, unpaired, tested=tested)
    tasks = [task for task, file in summary.splits.items() if isinstance(file, Path)]
    tune = [tune_command(directory, task) for task in tasks[:1]]
    steps = tune if role == "downstream" or not train else [train, *tune]
    check = f"python tools/check_shards.py {quote(str(directory))}"
    why = [] if role == "downstream" or train else [too_few([directory], images)]
    return [*why, *next_lines(check, *steps).splitlines()]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def main(
    arguments: Sequence[str] | None = None,
    submit: Callable[[ShardRequest], Summary | None] | None = None,
) -> None:
    """Run the command; exit code 2 and one line on stderr where it cannot be done.

    Args:
        submit: carries out a request with --jobs above 1; None where its jobs are only queued.
    """
    given = MAKE_SHARDS.read(HELP, arguments)
    with one_line_errors():
        if given.config(1).list:
            sys.stdout.write(listing())
            return
        request = _request(given)
        assert request.jobs == 1 or submit is not None, "who calls main hands in what submits jobs"
        summary = submit(request) if submit and request.jobs > 1 else build(request)
        sys.stdout.write(report(summary) if summary else "")

"""The command line of make_shards: it reads, it asks for the build, it says what came of it."""

import difflib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import fire
from fire.decorators import SetParseFn

from maskedclip.shards.make import Summary, build
from maskedclip.shards.request import Request

HELP = """\
make_shards: turn a downloaded dataset into shards.

    python tools/make_shards.py DATASET --root DIR [--out shards/DATASET]
    python tools/make_shards.py --list        every dataset: role, images, licence, how to obtain

  --root DIR              the folder of the download (phantom has none)
  --out DIR               where the shards go; shards/NAME if not given
  --name NAME             the name that they carry; DATASET if not given
  --size 512              pixels; a larger field of view is reduced to it, none is enlarged
  --quality 95            of the JPEGs
  --workers N             processes; all cores if not given
  --samples_per_shard 1000
  --anonymise             hash the file names too, with a secret key
  --key_file FILE         that key; OUT/../.maskedclip_key, made at first use, if not given
  --caption_template "A fundus photograph of [CLS]"     of the examples that are printed; a run has
                          its own: --data.caption_template

  --jobs N                share the build out to N jobs: an array on SLURM, processes elsewhere;
                          the bytes are the same, and a job that is lost costs time alone
  --cluster auto          slurm where sbatch is, else local; with it go
                          --partition --account --qos --hours 24 --memory_gb

  folder:   --classes TASK    the folder of an image is its class in this task
  csv:      --csv FILE        the table; each of the following names one of its columns
            --image_column NAME     file name or path; needed
            --label_column NAME --task TASK
            --patient_column --eye_column --split_column --report_column --categories_column
  phantom:  --count 2000 --seed 0   how many drawn images, and which

DATASET may also be a card of your own, a file like maskedclip/shards/cards/eyepacs.toml.
A killed build goes on where it was when the same command is given again.
"""
ONLY_FOR = {
    "classes": "folder",
    **dict.fromkeys(("csv", "image_column", "label_column", "task", "patient_column"), "csv"),
    **dict.fromkeys(("eye_column", "split_column", "report_column", "categories_column"), "csv"),
    **dict.fromkeys(("count", "seed"), "phantom"),
}
ONLY_WITH_JOBS = ("cluster", "hours", "partition", "account", "qos", "memory_gb")


def parse(arguments: Sequence[str]) -> Request:
    """Return the request of a command line; ValueError, in one line, where it asks for nonsense."""

    # Fire calls first and complains afterwards: so it may call only what builds a value, and
    # everything goes through *names and **flags, or it would complain in its own many lines.
    @SetParseFn(str)
    def request(*names: str, **flags: str) -> Request:
        known = [entry.name for entry in fields(Request) if entry.name != "dataset"]
        for flag in flags:
            if flag not in known:
                near = difflib.get_close_matches(flag, known, n=1, cutoff=0.5)
                hint = f"did you mean --{near[0]}?" if near else "see --help"
                raise ValueError(f"unknown flag --{flag}; {hint}")
        for flag in ONLY_WITH_JOBS:
            if flag in flags and flags.get("jobs", "1") == "1":
                raise ValueError(f"--{flag} is only for --jobs; add --jobs=N or remove it")
        if len(names) != 1:
            raise ValueError(f"one dataset is needed, {len(names)} given; see --help and --list")
        return Request(dataset=_known(names[0], flags), **_converted(flags))

    parsed = fire.Fire(
        request, command=list(arguments), name="make_shards", serialize=lambda _: None
    )
    assert isinstance(parsed, Request)
    return parsed


def _known(dataset: str, flags: dict[str, str]) -> str:
    from maskedclip.shards.downloads.records import read_card

    card = read_card(dataset)
    for flag in flags:
        if flag in ONLY_FOR and card.reader != ONLY_FOR[flag]:
            raise ValueError(f"--{flag} is only for {ONLY_FOR[flag]}, not for {dataset}; remove it")
    if card.reader == "phantom" and "root" in flags:
        raise ValueError("phantom has no --root: the images are drawn; remove it")
    return dataset


def _converted(flags: dict[str, str]) -> dict[str, Any]:
    kinds = {entry.name: str(entry.type) for entry in fields(Request)}
    return {flag: _convert(flag, text, kinds[flag]) for flag, text in flags.items()}


def _convert(flag: str, text: str, kind: str) -> Any:
    if "bool" in kind:
        if text not in ("True", "False"):
            raise ValueError(f"--{flag} {text}: it takes no value; write --{flag} alone")
        return text == "True"
    if text == "True":  # what Fire gives for a flag without a value
        raise ValueError(f"--{flag} needs a value; see --help")
    if "int" in kind:
        if not text.lstrip("-").isascii() or not text.lstrip("-").isdigit():
            raise ValueError(f"--{flag} {text!r} is not a whole number; see --help")
        return int(text)
    return Path(text) if "Path" in kind else text


def listing() -> str:
    """Return every dataset there is a card for."""
    from maskedclip.shards.downloads.records import card_names, read_card

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
    rejected = Counter(entry["reason"] for entry in manifest["rejected"])
    lines = [
        f"{manifest['samples']:,} samples in {len(manifest['shards'])} shards, "
        f"{manifest['counts']['with_caption']:,} with a caption, in {summary.seconds:.0f} s"
        if summary.built
        else f"nothing to do: the {manifest['samples']:,} samples of this request are there",
        f"splits: {_listed(manifest['counts']['splits'])}",
        *(f"{task}: {_listed(found)}" for task, found in manifest["counts"]["labels"].items()),
        *(f"rejected: {count} {reason}" for reason, count in sorted(rejected.items())),
        *(
            f"{name.replace(chr(95), chr(32))}: {len(found)}, such as {found[0]}"
            for name, found in manifest["remarks"].items()
        ),
        *_published(manifest["against_published"]),
    ]
    if manifest["duplicates"]:
        lines.append(f"groups of equal files, all kept: {len(manifest['duplicates'])}")
    if manifest["removed"]:
        lines.append(f"left behind with the files: {_listed(manifest['removed'])}")
    for source, possible in summary.captions:
        lines += [f"a caption of {source} is one of {len(possible)}:", *_indented(possible)]
    for task, file in summary.splits.items():
        none = f"none, since {file}" if isinstance(file, str) else file
        lines.append(f"split of {task}: {none}")
    lines += [f"to look at: {summary.directory / 'contact_sheet.png'}", *_next(summary)]
    return "\n".join(lines) + "\n"


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
    manifest, directory = summary.manifest, summary.directory
    role = manifest["recipe"]["role"]
    if manifest["recipe"]["name"] in ("folder", "csv"):
        role = "paired" if manifest["counts"]["with_caption"] else "unpaired"
    train = f"python launchers/submit_pretrain.py --data.{role}={directory} ..."
    tune = [
        f"python -m maskedclip.finetune RUN --dataset {directory} --task {task}"
        for task in [task for task, file in summary.splits.items() if isinstance(file, Path)][:1]
    ]
    steps = tune if role == "downstream" else [train, *tune]
    check = f"python tools/check_shards.py {directory}"
    return [f"next: {check}", *(f"   or: {step}" for step in steps)]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def main(
    arguments: Sequence[str] | None = None,
    submit: Callable[[Request], Summary | None] | None = None,
) -> None:
    """Run the command; exit code 2 and one line on stderr where it cannot be done.

    Args:
        submit: carries out a request with --jobs above 1; None where its jobs are only queued.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"--help", "-h"} & set(arguments):
        sys.stdout.write(HELP)
        return
    try:
        if "--list" in arguments:
            sys.stdout.write(listing())
            return
        request = parse(arguments)
        assert request.jobs == 1 or submit is not None, "who calls main hands in what submits jobs"
        summary = submit(request) if submit and request.jobs > 1 else build(request)
        sys.stdout.write(report(summary) if summary else "")
    except OSError as error:
        where = error.filename or "the output"
        found = error.strerror or str(error)
        _stop(f"{where}: {found}; mend that and give the same command again: it goes on from there")
    except (ValueError, RuntimeError) as error:
        _stop(" ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command goes on from here\n")
        raise SystemExit(130) from None


def _stop(message: str) -> None:
    sys.stderr.write(f"make_shards: {message}\n")
    raise SystemExit(2)

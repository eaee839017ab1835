"""The command line of check_shards."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from maskedclip.command import ANY, CommandLine, Given, Options, Word, one_line_errors
from maskedclip.shards.check import CSV_FILE, SHEET_FILE, CheckRequest, Findings, check, summary

HELP = """\
Check shards: is every byte whole, and is an image seen twice?

    python tools/check_shards.py DIR... [--against DIR...] [--out check] [--drop]

DIR are shard directories, as of tools/make_shards.py; --against names those that will be tested on,
copies of whose images are leaks. Copies are found when they were resized, compressed, cropped,
turned, mirrored or lit anew. The other eye of a patient, and another photograph of an eye, are
none: those are listed as unclear. --drop writes exclude.csv into each directory that has to lose a
sample, and training leaves out what it names.
Exit code: 0 nothing is wrong, 1 something is damaged or leaks, 2 the command cannot be carried out.
"""
_LISTED = 20  # problems of a directory on the screen; all of them are in report.json


CHECK_SHARDS = CommandLine(
    Options(CheckRequest(directories=()), hidden=["directories"]),
    words=[Word("DIRECTORY", most=ANY, missing="no directory is named; see --help")],
    greedy=["against"],
)


def parse(arguments: Sequence[str]) -> CheckRequest:
    """Return the request of a command line; ValueError, in one line, where it asks for nonsense."""
    return _request(CHECK_SHARDS.parse(arguments))


def _request(given: Given) -> CheckRequest:
    request: CheckRequest = given.config(0, CheckRequest(directories=tuple(map(Path, given.words))))
    return request


def report(findings: Findings) -> str:
    """Return what a check has found, in words and tables."""
    from maskedclip.shards.checks.dataset import tables

    lines = []
    for checked in findings.checked:
        found = tables(checked.samples)
        splits = ", ".join(f"{name} {count:,}" for name, count in found["splits"].items())
        lines.append(
            f"{checked.directory}: {len(checked.keys):,} samples ({splits}), "
            f"{len(checked.keys) - len(checked.samples):,} damaged, "
            f"{len(checked.excluded):,} excluded, {found['with_caption']:,} with a caption, "
            f"{found['patients']:,} patients"
        )
        for task, classes in found["labels"].items():
            parts = (f"{value} {sum(count.values()):,}" for value, count in classes.items())
            lines.append(f"    {task}: {', '.join(parts)}")
        for name, words in (("original_width", "original width"), ("stored_side", "stored side")):
            if found[name]:
                lines.append(f"    {words}, percent: pixels: {_pairs(found[name])}")
        for problem in checked.problems[:_LISTED]:
            where = " ".join(part for part in (problem.file, problem.key) if part)
            lines.append(f"    DAMAGED {where}: {problem.reason}")
        if len(checked.problems) > _LISTED:
            lines.append(f"    and {len(checked.problems) - _LISTED} more, in report.json")
    return "\n".join([*lines, "", *_table(findings), *_last(findings)]) + "\n"


def _pairs(found: dict[str, int]) -> str:
    return ", ".join(f"{key}: {value:,}" for key, value in found.items())


def _table(findings: Findings) -> list[str]:
    counts = findings.counts
    relations = list(next(iter(counts.values())))
    lines = ["pairs      " + "".join(f"{place:>22}" for place in relations)]
    for kind, found in counts.items():
        lines.append(f"{kind:<11}" + "".join(f"{found[place]:>22,}" for place in relations))
    return lines


def _last(findings: Findings) -> list[str]:
    request, numbers = findings.request, summary(findings)
    lines = []
    if numbers["labels_disagree"]:
        lines.append(f"labels disagree in {numbers['labels_disagree']} pairs")
    both = sum(len(pair.losers) == 2 for pair in findings.pairs)
    if both:
        lines.append(f"of {both} of them in training both copies go: nobody knows which is right")
    times = ", ".join(f"{name} {value:.1f} s" for name, value in findings.seconds.items())
    lines += [f"time: {times}", f"pairs: {request.out / CSV_FILE}"]
    if (request.out / SHEET_FILE).exists():
        lines.append(f"look at {request.out / SHEET_FILE}")
    for directory, count in findings.dropped.items():
        lines.append(f"{directory}: {count} samples added to exclude.csv")
    if findings.problems:
        lines.append("next: build what is damaged again with tools/make_shards.py")
    if numbers["to_drop"] and not request.drop:
        lines.append(f"next: the same command with --drop leaves out {numbers['to_drop']} samples")
    elif findings.dropped:
        lines.append("next: the same command without --drop shows what is left")
    elif findings.clean:
        lines.append("next: python launchers/submit_pretrain.py --data.paired=DIR,...")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command; mistakes end in one line and exit code 2."""
    given = CHECK_SHARDS.read(HELP, arguments)
    with one_line_errors():
        findings = check(_request(given))
    sys.stdout.write(report(findings))
    if findings.request.json:
        sys.stdout.write(json.dumps(summary(findings)) + "\n")
    if not findings.clean:
        raise SystemExit(1)

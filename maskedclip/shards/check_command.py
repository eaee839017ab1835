"""The command line of check_shards."""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from maskedclip.command import ANY, CommandLine, Given, Options, Word, one_line_errors
from maskedclip.next_step import next_lines, pretrain_command, too_few
from maskedclip.shards.check import CSV_FILE, SHEET_FILE, CheckRequest, Findings, check, summary

HELP = """\
Check shards: every byte, and near-duplicates within and between datasets.

    python tools/check_shards.py DIR... [--against DIR...] [--out check] [--drop]

DIR are directories of shards, also of third-party tars, or one tar; of a folder that holds such
directories each is checked. --against names test datasets, whose near-duplicates in DIR leak.
Near-duplicates are recognised after resizing, compression, cropping, rotation, mirroring and a
change of illumination. The other eye of a patient and another exposure of an eye are no
duplicates; such pairs are listed as unclear. --drop writes exclude.csv into every directory with
samples to exclude, and training leaves these out; with --drop_unclear also of unclear pairs across
published splits. tools/make_splits.py DIR --pairs=check/pairs.csv keeps all pairs in one part.
Exit code: 0 no problem, 1 damage or leakage, 2 the command cannot be carried out.
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
    """Return the report of a check, as text and tables."""
    from maskedclip.shards.checks.dataset import tables

    lines = []
    for checked in findings.checked:
        counts = tables(checked)
        splits = ", ".join(f"{name} {count:,}" for name, count in counts["splits"].items())
        lines.append(
            f"{checked.directory}: {len(checked.keys):,} samples ({splits}), "
            f"{len(checked.keys) - len(checked.samples):,} damaged, "
            f"{len(checked.excluded):,} excluded, {counts['with_caption']:,} with a caption, "
            f"{_patients(counts)}"
        )
        for task, classes in counts["labels"].items():
            parts = (
                f"{value or 'none of them'} {sum(n.values()):,}" for value, n in classes.items()
            )
            lines.append(f"    {task}: {', '.join(parts)}")
        for name, words in (("original_width", "original width"), ("stored_side", "stored side")):
            if counts[name]:
                lines.append(f"    {words}, percent: pixels: {_listed(counts[name])}")
        for problem in checked.problems[:_LISTED]:
            where = " ".join(part for part in (problem.file, problem.key) if part)
            lines.append(f"    DAMAGED {where}: {problem.reason}")
        if len(checked.problems) > _LISTED:
            lines.append(f"    and {len(checked.problems) - _LISTED} more, in report.json")
    return "\n".join([*lines, "", *_table(findings), *_last(findings)]) + "\n"


def _patients(counts: Mapping[str, int]) -> str:
    if not counts["patients"]:
        return "patients unknown"
    unknown = counts["without_patient"]
    of = f" of {counts['samples'] - unknown:,} samples, {unknown:,} without" if unknown else ""
    return f"{counts['patients']:,} patients{of}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{key}: {value:,}" for key, value in counts.items())


def _table(findings: Findings) -> list[str]:
    counts = findings.counts
    relations = list(next(iter(counts.values())))
    lines = ["pairs      " + "".join(f"{name:>22}" for name in relations)]
    for kind, number in counts.items():
        lines.append(f"{kind:<11}" + "".join(f"{number[name]:>22,}" for name in relations))
    return lines


def _last(findings: Findings) -> list[str]:
    request, numbers = findings.request, summary(findings)
    lines = []
    if numbers["labels_disagree"]:
        lines.append(f"labels disagree in {numbers['labels_disagree']} pairs")
    both = sum(len(pair.losers) == 2 for pair in findings.pairs)
    if both:
        lines.append(
            f"of {both} of these in training both samples go: neither label can be trusted"
        )
    lines += _crossing(findings)
    apart, divide_again = _apart(findings)
    lines += apart
    times = ", ".join(f"{name} {value:.1f} s" for name, value in findings.seconds.items())
    lines += [f"time: {times}", f"pairs: {request.out / CSV_FILE}"]
    if (request.out / SHEET_FILE).exists():
        lines.append(f"images of the pairs: {request.out / SHEET_FILE}")
    for directory, count in findings.dropped.items():
        lines.append(f"{directory}: {count} samples added to exclude.csv")
    return lines + _advice(findings, divide_again)


def _advice(findings: Findings, divide_again: list[str]) -> list[str]:
    """Return what is to be done, and the commands that do it."""
    request, count = findings.request, summary(findings)["to_drop"]
    damaged = {checked.third_party for checked in findings.checked if checked.problems}
    lines, commands = [], [*divide_again]
    if False in damaged:
        lines.append("build the damaged shards again with tools/make_shards.py, then check again")
    if True in damaged:
        lines.append("make the damaged tars again; training leaves out what is named above")
    if count and not request.drop:
        lines.append(f"--drop leaves out {count} samples")
        commands.append(_again(request, drop=True))
    elif findings.dropped:
        lines.append("without --drop the remaining pairs are reported")
        commands.append(_again(request, drop=False))
    elif damaged:
        commands.append(_again(request, drop=request.drop))
    elif findings.clean:
        more, command = _pretrain(findings)
        lines, commands = lines + more, commands + command
    return [*lines, *next_lines(*commands).splitlines()]


def _again(request: CheckRequest, *, drop: bool) -> str:
    words = ["python", "tools/check_shards.py", *map(str, request.directories)]
    words += ["--against", *map(str, request.against)] if request.against else []
    words += [f"--out={request.out}"] if request.out != CheckRequest.out else []
    return shlex.join([*words, *(["--drop"] if drop else [])])


def _pretrain(findings: Findings) -> tuple[list[str], list[str]]:
    """Return the command of a pre-training on what was checked, or a line on why there is none."""
    from maskedclip.data.stated_tests import stated_tests  # NumPy, which --help does without
    from maskedclip.shards.checks.dataset import tables

    own = findings.checked[: findings.own]
    tests = {one.directory: stated_tests(one.directory) for one in own}  # are left out
    captioned = {one.directory for one in own if tables(one)["with_caption"]}
    images = {one.directory: len(one.samples) - tests[one.directory] for one in own}
    command = pretrain_command(
        {path: count for path, count in images.items() if path in captioned},
        {path: count for path, count in images.items() if path not in captioned},
        tested=any(tests.values()),
    )
    return ([], [command]) if command else ([too_few(images, sum(images.values()))], [])


def _apart(findings: Findings) -> tuple[list[str], list[str]]:
    """Return the split files that part copies and unclear pairs, and what divides them again."""
    lines, again = [], dict[Path, None]()
    for apart in findings.apart:
        kinds = Counter(pair.kind for pair in apart.pairs)
        listed = ", ".join(f"{kind} {kinds[kind]}" for kind in findings.counts if kinds[kind])
        lines.append(f"{apart.file}: {len(apart.pairs)} pairs stand in two parts ({listed})")
        if apart.published:
            lines.append(
                f"    {apart.published} of them by the published split, which is kept: --drop "
                f"leaves copies out, --drop --drop_unclear the unclear ones, too"
            )
        if apart.published < len(apart.pairs):
            again[apart.directory] = None
    found = findings.request.out / CSV_FILE
    return lines, [
        f"python tools/make_splits.py {quote(str(path))} --pairs={quote(str(found))}"
        for path in again
    ]


def _crossing(findings: Findings) -> list[str]:
    """Return how many patients of a directory stand in more than one split."""
    patients: dict[Path, set[str | None]] = {}
    for pair in findings.pairs:
        if pair.kind == "patient":
            own = patients.setdefault(pair.one.dataset.directory, set())
            own.add(pair.one.sample.metadata.patient)
    return [
        f"{directory}: {len(own)} patients stand in more than one split; the splits are kept as "
        f"they are"
        for directory, own in patients.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command; mistakes end in one line and exit code 2."""
    given = CHECK_SHARDS.read(HELP, arguments)
    with one_line_errors():
        findings = check(_request(given))
    sys.stdout.write(report(findings))
    if not findings.clean:
        kinds = Counter(pair.kind for pair in findings.pairs)
        sys.stdout.write(
            f"exit code 1: {findings.problems:,} damaged, {kinds['exact'] + kinds['near']:,} pairs "
            f"of copies, {kinds['patient']:,} pairs of a patient in two splits\n"
        )
    if findings.request.json:
        sys.stdout.write(json.dumps(summary(findings)) + "\n")
    if not findings.clean:
        raise SystemExit(1)

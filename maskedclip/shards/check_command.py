"""The command line of check_shards: it reads, it asks for the check, it says what came of it."""

import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import fire
from fire.decorators import SetParseFn

from maskedclip.shards.check import CSV_FILE, SHEET_FILE, Findings, Request, check, summary

HELP = """\
check_shards: is every byte of the shards whole, and is a picture seen twice?

    python tools/check_shards.py DIR... [--against DIR...] [--out check] [--drop]

  DIR...                  shard directories, as of tools/make_shards.py
  --against DIR...        datasets that will be tested on: copies of their pictures are leaks
  --out DIR               where pairs.csv, pairs.png, unclear.png and report.json go; check/ if
                          not given
  --drop                  write exclude.csv into each directory that has to lose a sample;
                          training leaves out what it names
  --workers N             threads; all cores if not given
  --json                  the last line of the output is one JSON object

Copies are found when they were resized, compressed, cropped, turned, mirrored or lit anew. The
other eye of a patient, and another photograph of an eye, are none: those are listed as unclear.
Exit code: 0 nothing is wrong, 1 something is damaged or leaks, 2 the command cannot be carried out.
"""
_LISTED = 20  # problems of a directory on the screen; all of them are in report.json


def parse(arguments: Sequence[str]) -> Request:
    """Return the request of a command line; ValueError, in one line, where it asks for nonsense."""

    # Everything goes through *names and **flags: Fire would complain in its own many lines.
    @SetParseFn(str)
    def request(*names: str, **flags: str) -> Request:
        known = [entry.name for entry in fields(Request) if entry.name != "directories"]
        for flag in flags:
            if flag not in known:
                near = difflib.get_close_matches(flag, known, n=1, cutoff=0.5)
                hint = f"did you mean --{near[0]}?" if near else "see --help"
                raise ValueError(f"unknown flag --{flag}; {hint}")
        if not names:
            raise ValueError("no directory is named; see --help")
        changes = {flag: _convert(flag, text) for flag, text in flags.items()}
        return Request(directories=tuple(map(Path, names)), **changes)

    parsed = fire.Fire(
        request, command=_gathered(arguments), name="check_shards", serialize=lambda _: None
    )
    assert isinstance(parsed, Request)
    return parsed


def _gathered(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the directories behind --against as its one value.

    Fire would take all but the first for directories to check.
    """
    found: list[str] = []
    against: list[str] | None = None
    for argument in arguments:
        if argument == "--against":
            against = [] if against is None else against
            found.append(argument)
        elif against is not None and found[-1] == "--against" and not argument.startswith("-"):
            against.append(argument)
        else:
            found.append(argument)
    if against is None:
        return found
    place = found.index("--against")
    rest = [argument for argument in found if argument != "--against"]
    return [*rest[:place], "--against=" + "\0".join(against), *rest[place:]]


def _convert(flag: str, text: str) -> Any:
    if flag in ("drop", "json"):
        if text not in ("True", "False"):
            raise ValueError(f"--{flag} {text}: it takes no value; write --{flag} alone")
        return text == "True"
    if text in ("True", ""):  # what Fire gives for a flag without a value
        raise ValueError(f"--{flag} needs a value; see --help")
    if flag == "workers":
        if not text.isascii() or not text.isdigit():
            raise ValueError(f"--{flag} {text!r} is not a whole number; see --help")
        return int(text)
    if flag == "against":
        return tuple(Path(part) for part in text.split("\0"))
    return Path(text)


def report(findings: Findings) -> str:
    """Return what a check has found, in words and tables."""
    from maskedclip.shards.checks.summary import tables

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
    places = list(next(iter(counts.values())))
    lines = ["pairs      " + "".join(f"{place:>22}" for place in places)]
    for kind, found in counts.items():
        lines.append(f"{kind:<11}" + "".join(f"{found[place]:>22,}" for place in places))
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
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or "--help" in arguments or "-h" in arguments:
        sys.stdout.write(HELP)
        return
    try:
        findings = check(parse(arguments))
    except OSError as error:
        where = error.filename or "the output"
        _stop(f"{where}: {error.strerror or error}; mend that and give the same command again")
    except (ValueError, RuntimeError) as error:
        _stop(" ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command begins anew\n")
        raise SystemExit(130) from None
    sys.stdout.write(report(findings))
    if findings.request.json:
        sys.stdout.write(json.dumps(summary(findings)) + "\n")
    if not findings.clean:
        raise SystemExit(1)


def _stop(message: str) -> None:
    sys.stderr.write(f"check_shards: {message}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()

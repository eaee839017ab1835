"""Write the splits of a dataset of shards anew, with another seed or other shares.

    python tools/make_splits.py DIR [--seed=1] [--test_share=0.3] [--validation_share=0.2]
    python tools/make_splits.py DIR --pairs=check/pairs.csv

Published splits are kept. Where there is no test split, ceil(test_share x n) of each class become
it, by patient where patients are known; where there is no validation split,
ceil(validation_share x n) of what is left; of a task of several labels an image, that of the images
of each label as near as may be. Seed 0 is the dataset's own, DIR/splits/TASK.csv, which
fine-tuning reads; another is DIR/splits/TASK-seedN.csv, for fine-tuning's --split=FILE. Files that
are equal stay together; --pairs keeps together what tools/check_shards.py found, copies and unclear
pairs, and notes them in DIR/together.csv, so that every later division does.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from maskedclip.command import CommandLine, Options, Word, one_line_errors
from maskedclip.next_step import next_lines, tune_command

if TYPE_CHECKING:  # these import the rest of the package, and `--help` must not wait for that
    from maskedclip.data.labelled import LabelledSample, Task
    from maskedclip.data.splits import Division
    from maskedclip.data.storage.shards import Shards


@dataclass(frozen=True, kw_only=True)
class SplitsConfig:
    """How a dataset is divided."""

    task: str = ""  # one label; empty: every label of the dataset
    seed: int = 0  # of the draw
    test_share: float = 0.3  # of each class, where no test split is published
    validation_share: float = 0.2  # of what is then left, where no validation split is
    pairs: Path | None = None  # pairs.csv of check_shards; None: as DIR/together.csv has them

    def __post_init__(self) -> None:
        for name in ("test_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: write a share between 0 and 1")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} is negative; use 0 or more")


def make_splits(directory: Path, config: SplitsConfig) -> list[Path]:
    """Write the files and print what is in them; ValueError for a task that cannot be divided."""
    from maskedclip.data.labelled import divide, labelled
    from maskedclip.data.splits import (
        FRACTIONS,
        read_split,
        split_file,
        tasks_of,
        training_share,
        write_split,
    )
    from maskedclip.data.storage.shards import Shards

    dataset = Shards(directory)
    sys.stdout.write(_pairs(dataset, config))
    written = []
    for name in [config.task] if config.task else tasks_of(dataset.manifest):
        task = labelled(dataset, name)
        shares = {"test_share": config.test_share, "validation_share": config.validation_share}
        path = split_file(directory, task.name, config.seed)
        write_split(path, task, divide(task, **shares, seed=config.seed))
        division = read_split(path, task)
        sys.stdout.write(_parted(task, division))
        shown = dict(division.parts)
        for fraction in FRACTIONS[:-1]:
            shown[f"{fraction:.0%} of train"] = training_share(division, fraction, 0)
        sys.stdout.write(_table(str(path), task, shown))
        written.append(path)
    return written


def _pairs(dataset: "Shards", config: SplitsConfig) -> str:
    """Take the pairs over into together.csv; return what stays together, as a line."""
    from maskedclip.data.together import TOGETHER, read_together, write_together
    from maskedclip.shards.near_duplicates.pair_report import read_pairs

    keys = {dataset.key(index) for index in range(len(dataset))}
    if config.pairs:
        found = read_pairs(config.pairs, dataset.name, keys)
        _refuse_pairs_of_others(config.pairs, dataset.directory, any_found=bool(found))
        write_together(dataset.directory, found)
    if not (dataset.directory / TOGETHER).is_file():
        return (
            f"copies: equal files stay together; near copies and unclear pairs would with "
            f"--pairs=check/pairs.csv of tools/check_shards.py {dataset.directory}\n"
        )
    kinds = Counter(pair.why for pair in read_together(dataset.directory, keys))
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    of = f" ({listed})" if listed else ""
    return f"{dataset.directory / TOGETHER}: {kinds.total()} pairs stay in one part{of}\n"


def _refuse_pairs_of_others(pairs: Path, directory: Path, *, any_found: bool) -> None:
    """Raise ValueError where the last check that wrote the table looked at other directories.

    An empty table of another dataset would erase the pairs that are known of this one.
    """
    from maskedclip.shards.check import REPORT_FILE

    report = pairs.with_name(REPORT_FILE)
    fix = f"python tools/check_shards.py {quote(str(directory))}"
    if not report.is_file():
        if not any_found:
            raise ValueError(
                f"--pairs {pairs}: names no sample of {directory}, and there is no {REPORT_FILE} "
                f"beside it to say whether it was searched; check it again: {fix}"
            )
        return
    try:
        content = json.loads(report.read_bytes())
        searched = list(map(str, content.get("searched", content["datasets"])))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{report}: no report of check_shards; check again: {fix}") from None
    if directory.resolve() not in [Path(name).resolve() for name in searched]:
        raise ValueError(
            f"--pairs {pairs}: is of {', '.join(searched)}, not of {directory}; check that again: "
            f"{fix}"
        )


def _parted(task: "Task", division: "Division") -> str:
    """Return how many pairs the published split parts, as a line; "" for none."""
    part = {s.key: name for name, samples in division.parts.items() for s in samples}
    parted = [p for p in task.together if len({part.get(key) for key in p} - {None}) > 1]
    if not parted:
        return ""
    return (
        f"{task.name}: the published split is kept and parts {len(parted)} of these pairs, such as "
        f"{' and '.join(parted[0])}; tools/check_shards.py --drop leaves copies out, with "
        f"--drop_unclear the unclear ones, too\n"
    )


def _table(title: str, task: "Task", shown: Mapping[str, Sequence["LabelledSample"]]) -> str:
    """Return the images of each part, by class; an image of several labels is in several rows."""
    counts = {
        part: Counter(label for sample in samples for label in task.labels_of(sample))
        for part, samples in shown.items()
    }
    width = max(map(len, ["class", *task.classes]))
    lines = [title, f"{'class':{width}}" + "".join(f"{part:>14}" for part in shown)]
    for label, name in enumerate(task.classes):
        of_parts = (count[label] for count in counts.values())
        lines.append(f"{name:{width}}" + "".join(f"{images:14,}" for images in of_parts))
    if task.kind == "labels":
        bare = (sum(not sample.labels for sample in samples) for samples in shown.values())
        lines.append(f"{'none':{width}}" + "".join(f"{images:14,}" for images in bare))
    lines.append(f"{'all':{width}}" + "".join(f"{len(samples):14,}" for samples in shown.values()))
    return "\n".join(lines) + "\n\n"


SPLITS = CommandLine(Options(SplitsConfig()), words=[Word("DIRECTORY")])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit code 2 and one line on stderr where it cannot be done."""
    given = SPLITS.read(__doc__, arguments)
    directory = Path(given.words[0])
    with one_line_errors():
        written = make_splits(directory, given.config())
        split = written[0] if "seed" in given.changes[0] and written else None
        sys.stdout.write(next_lines(tune_command(directory, split=split)))

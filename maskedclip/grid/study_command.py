"""What a study of many fine-tunings runs: read from the command line and checked before torch."""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.cluster_profile import profiled
from maskedclip.command import field_lines, one_line_errors, read_flags, stop
from maskedclip.config import FinetuneConfig, LaunchConfig, field_names, override
from maskedclip.data.paper_tasks import chosen
from maskedclip.finetune.command import check_dataset, check_weights, recipe_lines
from maskedclip.finetune.recipes import finetune_recipe

EFFICIENCY = "0.01,0.02,0.05,0.1,0.2,0.5,1.0"  # of Figure 2
_LAUNCH = [
    name for name in field_names(LaunchConfig()) if name not in ("nodes", "cpu_ranks", "dry_run")
]
_OURS = ("weights", "dataset", "task", "fraction", "seed", "recipe", "name", "out", "split")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The axes of a study; every combination is one fine-tuning."""

    weights: tuple[str, ...] = ()  # run directories, files of weights, or random
    datasets: tuple[str, ...] = ()  # directories with labels; paper: the seven of its tables
    shards: str = "shards"  # where those of paper are
    task: str = ""  # label of the datasets that are named; empty: their first
    fractions: tuple[float, ...] = (0.1, 1.0)  # of the training labels; efficiency: 0.01 to 1.0
    seeds: int = 5  # repeats, each with another share of the labels, order and head
    recipe: str = "paper"
    out: str = "runs"
    name: str = "finetune"  # of the grid OUT/grids/NAME, where it is an array or several at a time
    parallelism: int | None = None  # jobs of an array at a time; here processes, 1 if unset
    dry_run: bool = False  # list the fine-tunings, on SLURM their scripts too, and stop

    def __post_init__(self) -> None:
        if (self.parallelism or 1) < 1:
            raise ValueError(f"parallelism {self.parallelism}: is at least 1")
        if not self.name or self.name in (".", "..") or set(self.name) & set("/\\"):
            raise ValueError(f"name {self.name!r}: write a plain folder name")
        if self.seeds < 1:
            raise ValueError(f"seeds {self.seeds}: is at least 1")
        if not self.fractions:
            raise ValueError("fractions: name at least one, such as 0.1,1.0")


class Study(NamedTuple):
    """The fine-tunings in the order they are run in, and what cannot be run."""

    cells: list[FinetuneConfig]
    missing: list[str]  # a line for each dataset of the paper that is not there
    config: StudyConfig
    launch: LaunchConfig = LaunchConfig()


def read_study(usage: str | None, arguments: list[str] | None = None) -> Study:
    """Return what the command line asks for, its weights and datasets there."""
    words, flags = read_flags(_with_values(sys.argv[1:] if arguments is None else arguments))
    if flags.keys() & {"help", "h"}:
        with one_line_errors():
            sys.stdout.write(_help(usage, flags.get("recipe", StudyConfig().recipe)))
        raise SystemExit(0)
    if len(words) > 1:
        stop(f"{words[1]!r}: name several weights with commas: {','.join(words)}")
    if words:
        flags = {"weights": words[0]} | flags
    if flags.get("fractions") == "efficiency":
        flags["fractions"] = EFFICIENCY
    known = [name for name in field_names(FinetuneConfig()) if name not in _OURS]
    every = (*field_names(StudyConfig()), *known, *_LAUNCH)
    unknown = [name for name in flags if name not in every]
    if unknown:
        near = difflib.get_close_matches(unknown[0], every, n=1)
        stop(f"no flag --{unknown[0]}; " + (f"did you mean --{near[0]}?" if near else "see --help"))
    with one_line_errors():
        ours = {name: value for name, value in flags.items() if name in field_names(StudyConfig())}
        config = override(StudyConfig(), ours)
        launched = {name: value for name, value in flags.items() if name in _LAUNCH}
        launch = override(profiled(flags.get("profile", "")), launched)
        # a fine-tuning is one process
        launch = replace(launch, nodes=1, cpu_ranks=1, dry_run=config.dry_run)
        cells, missing = plan(config, {k: v for k, v in flags.items() if k in known})
    return Study(cells, missing, config, launch)


def plan(study: StudyConfig, changes: Mapping[str, Any]) -> tuple[list[FinetuneConfig], list[str]]:
    """Return every combination, seed by seed: the first seed's fill a table before the next begins.

    changes: fields of the recipe that have other values. Raises ValueError where weights, datasets
    or tasks are not there, or two combinations would be one run.
    """
    if not study.weights:
        raise ValueError("no weights given; name a run directory or a file of weights, or random")
    if not study.datasets:
        raise ValueError("no dataset given; add --datasets=DIR,DIR, or --datasets=paper")
    datasets, missing = chosen(study.datasets, study.task, Path(study.shards))
    for weights in study.weights:
        check_weights(weights)
    for directory, task in datasets:
        check_dataset(directory, task)
    recipe = replace(override(finetune_recipe(study.recipe), changes), out=study.out)
    cells = [
        replace(
            recipe, weights=weights, dataset=str(directory), task=task, fraction=fraction, seed=seed
        )
        for seed in range(study.seeds)
        for weights in study.weights
        for directory, task in datasets
        for fraction in study.fractions
    ]
    if len(set(cells)) < len(cells):
        raise ValueError("weights, datasets or fractions: one is named twice; name each once")
    return cells, missing


def _with_values(arguments: list[str]) -> list[str]:
    """Return the arguments, a bare --dry_run written out: Fire would give it the next word."""
    return ["--dry_run=true" if word == "--dry_run" else word for word in arguments]


def _help(usage: str | None, recipe: str) -> str:
    fields = field_lines(finetune_recipe(recipe))
    others = [line for line in fields if line.split("=")[0].strip(" -") not in _OURS]
    lines = [str(usage).strip(), "", *recipe_lines(), "Options, as --NAME=VALUE:"]
    launch = [x for x in field_lines(LaunchConfig()) if x.split("=")[0].strip(" -") in _LAUNCH]
    lines += [*field_lines(StudyConfig()), "", "Where and how:", *launch]
    lines += ["", "Fields of the recipe, for every fine-tuning:"]
    return "\n".join([*lines, *others]) + "\n"

"""The command line of submit_finetune: a study of many fine-tunings, checked before torch."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.cluster_profile import profiled
from maskedclip.command import CommandLine, Given, Options, one_line_errors
from maskedclip.config import FinetuneConfig, LaunchConfig, check_folder_name, override
from maskedclip.finetune.command import (
    WEIGHTS,
    check_dataset,
    check_weights,
    finetune_recipe_lines,
)
from maskedclip.finetune.recipes import finetune_recipe, following_warmup

EFFICIENCY = "0.01,0.02,0.05,0.1,0.2,0.5,1.0"  # of Figure 2
_ONE_PROCESS = ("nodes", "cpu_ranks", "dry_run")  # of a launch: a fine-tuning is one process
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
    name: str = ""  # of the grid OUT/grids/NAME; empty: finetune, here without parallelism no grid
    parallelism: int | None = None  # jobs at a time; here processes, 1 if unset
    pack: int | None = None  # fine-tunings a job of SLURM; unset: some 30 minutes of them
    dry_run: bool = False  # list the fine-tunings, on SLURM their scripts too, and stop

    def __post_init__(self) -> None:
        if (self.parallelism or 1) < 1:
            raise ValueError(f"parallelism {self.parallelism}: is at least 1")
        if (self.pack or 1) < 1:
            raise ValueError(f"pack {self.pack}: is at least 1")
        if self.name:
            check_folder_name(self.name)
        if self.seeds < 1:
            raise ValueError(f"seeds {self.seeds}: is at least 1")
        if not self.fractions:
            raise ValueError("fractions: name at least one, such as 0.1,1.0")


class Study(NamedTuple):
    """The fine-tunings in the order in which they run, and the datasets that are missing."""

    cells: list[FinetuneConfig]
    missing: list[str]  # one line for each dataset of the paper that does not exist
    config: StudyConfig
    launch: LaunchConfig = LaunchConfig()


def study_line(recipe: str) -> CommandLine:
    """Return the words and flags of submit_finetune, those of the fine-tuning a recipe's."""
    return CommandLine(
        Options(StudyConfig()),
        Options(LaunchConfig(), "Where and how:", hidden=_ONE_PROCESS),
        Options(
            finetune_recipe(recipe), "Fields of the recipe, for every fine-tuning:", hidden=_OURS
        ),
        words=[WEIGHTS._replace(extra="name several weights with commas, as A,B")],
    )


def read_study(usage: str | None, arguments: Sequence[str] | None = None) -> Study:
    """Return the study that the command line asks for; its weights and datasets exist."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with one_line_errors():
        recipe = study_line("paper").parse(arguments).changes[0].get("recipe", "paper")
        given = study_line(recipe).read(usage, arguments, finetune_recipe_lines())
        config, launch = parse_study(given)
        changes = following_warmup(finetune_recipe(config.recipe), given.changes[2])
        cells, missing = plan(config, changes)
    return Study(cells, missing, config, launch)


def parse_study(given: Given) -> tuple[StudyConfig, LaunchConfig]:
    """Return the axes and the launch that a command line gives; ValueError for a mistake."""
    study, launched, _ = given.changes
    if study.get("fractions") == "efficiency":
        study["fractions"] = EFFICIENCY
    config = override(StudyConfig(), study)
    launch = override(profiled(launched.get("profile", "")), launched)
    return config, replace(launch, nodes=1, cpu_ranks=1, dry_run=config.dry_run)


def plan(study: StudyConfig, changes: Mapping[str, Any]) -> tuple[list[FinetuneConfig], list[str]]:
    """Return every combination, the first seed's before the next, and what is missing.

    changes: of the recipe's fields. Raises ValueError for weights, datasets or tasks that do not
    exist, and where two combinations would be one run.
    """
    if not study.weights:
        raise ValueError("no weights given; name a run directory or a file of weights, or random")
    if not study.datasets:
        raise ValueError("no dataset given; add --datasets=DIR,DIR, or --datasets=paper")
    from maskedclip.data.paper_tasks import chosen  # numpy, for which --help does not wait
    from maskedclip.shards.dataset_names import refuse_one_name

    datasets, missing = chosen(study.datasets, study.task, Path(study.shards))
    for weights in study.weights:
        check_weights(weights)
    for directory, task in datasets:
        check_dataset(directory, task)
    refuse_one_name("datasets", [directory for directory, _ in datasets])
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

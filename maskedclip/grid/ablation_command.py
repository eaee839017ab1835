"""The command line of submit_ablation: systems, tasks and launch, checked before torch."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from maskedclip.casting import did_you_mean
from maskedclip.cluster_profile import profiled
from maskedclip.command import CommandLine, Options, Word, one_line_errors
from maskedclip.config import (
    Config,
    FinetuneConfig,
    LaunchConfig,
    check_folder_name,
    check_hours,
    override,
)
from maskedclip.finetune.recipes import finetune_recipe, following_warmup
from maskedclip.grid.cells import REPORTED, TABLES, system
from maskedclip.recipes import RECIPES

SET_BY_GRID = (  # fields of a fine-tuning or a pre-training
    "weights", "dataset", "task", "fraction", "name", "out", "recipe", "after.datasets",
    "after.task", "after.protocols", "after.beside_start",
)  # fmt: skip


def check_study(name: str, fractions: Sequence[float], hours: float, *counts: int | None) -> None:
    """Raise ValueError where a study's name is no folder's, or a number of it is too small.

    Args:
        counts: its seeds, parallelism and pack; None where one is not given.
    """
    if min(1 if count is None else count for count in counts) < 1:
        raise ValueError("seeds, parallelism and pack are at least 1")
    check_hours("finetune_hours", hours)
    if not fractions:
        raise ValueError("fractions: name at least one, such as 0.1,1.0")
    check_folder_name(name)


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Which systems are pre-trained, and what they are fine-tuned on."""

    table: Literal["1", "2", "both"] = "both"  # of the paper, whose systems are pre-trained
    systems: tuple[str, ...] = ()  # recipes in place of the tables'
    base: str = ""  # recipe whose differences from the paper's run all take over, such as demo
    datasets: tuple[str, ...] = ("paper",)  # directories with labels; paper: the tables' seven
    shards: str = "shards"  # where those of paper are
    task: str = ""  # label of the datasets that are named; empty: their first
    fractions: tuple[float, ...] = (0.1, 1.0)  # of the training labels
    seeds: int = 5  # repeats, each with another share of the labels, order and head
    recipe: str = "paper"  # of fine-tuning
    finetune_hours: float = 12.0  # time limit of a fine-tuning; a longer one goes on after it
    parallelism: int | None = None  # jobs of a stage at a time; here processes, 1 if unset
    pack: int | None = None  # fine-tunings a job of SLURM; unset: some 30 minutes of them
    name: str = "ablation"  # of the grid, OUT/grids/NAME
    out: str = "runs"

    def __post_init__(self) -> None:
        check_study(
            self.name, self.fractions, self.finetune_hours, self.seeds, self.parallelism, self.pack
        )


class AblationStudy(NamedTuple):
    """What the command line asks for."""

    config: AblationConfig
    launch: LaunchConfig
    systems: dict[str, Config]
    finetuning: FinetuneConfig
    command: str = ""  # the command line itself


ABLATION = CommandLine(
    Options(AblationConfig()),
    Options(LaunchConfig(), "Where and how:"),
    Options(
        FinetuneConfig(), "Fields of every fine-tuning:", prefix="finetune.", hidden=SET_BY_GRID
    ),
    Options(
        Config(),
        "Fields of every pre-training, as --SECTION.FIELD=VALUE:",
        hidden=SET_BY_GRID,
    ),
    words=[
        Word("SYSTEM", least=0, most=0, extra="systems are named by --table or --systems=NAME,NAME")
    ],
)


def read_ablation(usage: str | None, arguments: Sequence[str] | None = None) -> AblationStudy:
    """Return what the command line asks for; mistakes end the program in one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = ABLATION.read(usage, arguments)
    with one_line_errors():
        config: AblationConfig = given.config()
        _, launched, tuned, changes = given.changes
        launch = given.config(1, profiled(launched.get("profile", "")))
        systems = _systems(config, changes)
        tuning = tuning_of(config.recipe, systems, tuned)
        command = shlex.join(["python", sys.argv[0], *arguments])
        return AblationStudy(config, launch, systems, tuning, command)


def tuning_of(
    recipe: str, systems: Mapping[str, Config], changes: Mapping[str, Any]
) -> FinetuneConfig:
    """Return the fine-tuning of systems, at their image size where nothing else is asked for."""
    own = finetune_recipe(recipe)
    size = {"image_size": next(iter(systems.values())).model.image_size}
    return override(own, size | following_warmup(own, changes, "finetune."))


def _systems(config: AblationConfig, changes: Mapping[str, Any]) -> dict[str, Config]:
    names = config.systems or dict.fromkeys(
        name for table, row in TABLES.items() if config.table in (table, "both") for name in row
    )
    if len(set(names)) < len(tuple(names)):
        raise ValueError(f"systems {','.join(names)}: one is named twice; name each once")
    if REPORTED in names:
        raise ValueError(f"systems: {REPORTED} is what the report is called")
    override(Config(), changes)  # a value of the wrong kind is reported before any recipe is built
    base = recipe_named(config.base) if config.base else None
    return {name: system(recipe_named(name), base, changes) for name in names}


def recipe_named(name: str) -> Config:
    """Return a recipe's configuration; ValueError, with the nearest name, where there is none."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; {did_you_mean(name, RECIPES, ', '.join(RECIPES))}")
    return RECIPES[name]()

"""The command line of submit_sweep: recipes, values of fields, seeds; checked before torch."""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from maskedclip.casting import Lines, cast_value, did_you_mean
from maskedclip.cluster_profile import profiled
from maskedclip.command import CommandLine, Options, Word, one_line_errors, recipe_lines
from maskedclip.config import (
    Config,
    FinetuneConfig,
    LaunchConfig,
    field_kinds,
    override,
)
from maskedclip.finetune.command import PROTOCOLS, EvaluateConfig
from maskedclip.grid.ablation_command import (
    SET_BY_GRID,
    check_study,
    recipe_named,
    tuning_of,
)
from maskedclip.grid.cells import system
from maskedclip.recipes import RECIPES

FINETUNE_PROTOCOL = "finetune"
_NOT_SWEPT = {
    "seed": "use --seeds",
    "name": "points are named after what they change",
    "out": "use --out",
}
_HIDDEN = (*SET_BY_GRID, "seed")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What is swept, and how every pre-training is measured."""

    sweep: Lines = ()  # FIELD=VALUE,VALUE; values that are lists are separated by semicolons
    seeds: int = 1  # repeats from pre-training to test: --seed, --seed + 1, ...
    base: str = ""  # recipe whose differences from the paper's run all take over, such as demo
    datasets: tuple[str, ...] = ()  # directories with labels, or paper; empty: after.datasets
    shards: str = "shards"  # where those of paper are
    task: str = ""  # label of the datasets that are named; empty: their first
    protocols: tuple[str, ...] = ("logistic", "knn")  # of evaluate; and finetune
    fractions: tuple[float, ...] = (1.0,)  # of the training labels
    shots: tuple[int, ...] = ()  # labels a class, for logistic regression on so few
    recipe: str = "paper"  # of fine-tuning
    finetune_hours: float = 12.0  # time limit of a fine-tuning or an evaluation
    parallelism: int | None = None  # jobs of a stage at a time; here processes, 1 if unset
    pack: int | None = None  # fine-tunings a job of SLURM; unset: some 30 minutes of them
    name: str = "sweep"  # of the grid, OUT/grids/NAME
    out: str = "runs"

    def __post_init__(self) -> None:
        check_study(
            self.name, self.fractions, self.finetune_hours, self.seeds, self.parallelism, self.pack
        )
        known = (FINETUNE_PROTOCOL, *(name for name in PROTOCOLS if name != "transfer"))
        for name in self.protocols:
            if name not in known:
                near = did_you_mean(name, known, f"use some of {', '.join(known)}")
                raise ValueError(f"no protocol {name!r}; {near}")
        if not self.protocols and not self.shots:
            raise ValueError("protocols: name at least one, such as logistic,knn")


class Sweep(NamedTuple):
    """What the command line asks for."""

    config: SweepConfig
    launch: LaunchConfig
    systems: dict[str, Config]  # by the name of the point; seed: the first one's
    finetuning: FinetuneConfig
    evaluation: EvaluateConfig
    swept: tuple[str, ...] = ()  # the fields
    command: str = ""  # the command line itself


def sweep_line(recipe: str) -> CommandLine:
    """Return the words and flags of submit_sweep, those of the pre-training a recipe's."""
    return CommandLine(
        Options(SweepConfig()),
        Options(LaunchConfig(), "Where and how:"),
        Options(
            FinetuneConfig(), "Fields of every fine-tuning:", prefix="finetune.", hidden=_HIDDEN
        ),
        Options(
            RECIPES[recipe](),
            "Fields of every pre-training, as --SECTION.FIELD=VALUE:",
            hidden=SET_BY_GRID,
        ),
        words=[
            Word(
                "RECIPE",
                missing="no recipe given; name one, such as demo, or several as A,B",
                extra="name several recipes with commas, as A,B",
            )
        ],
    )


def read_sweep(usage: str | None, arguments: Sequence[str] | None = None) -> Sweep:
    """Return what the command line asks for; mistakes end the program in one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with one_line_errors():
        words = sweep_line("maskedclip_vitl").parse(arguments).words
        recipes = [name for word in words for name in word.split(",") if name]
        for name in recipes:
            recipe_named(name)
        line = sweep_line(recipes[0] if recipes else "maskedclip_vitl")
        given = line.read(usage, arguments, recipe_lines("Recipes:", RECIPES))
        config: SweepConfig = given.config()
        _, launched, tuned, changes = given.changes
        launch = given.config(1, profiled(launched.get("profile", "")))
        systems = points(recipes, config.base, changes, config.sweep)
        first = next(iter(systems.values()))
        config = override(config, {"datasets": config.datasets or first.after.datasets})
        config = override(config, {"task": config.task or first.after.task})
        if not config.datasets:
            raise ValueError(
                "no dataset given; add --datasets=DIR,DIR, shard directories, or paper"
            )
        tuning = tuning_of(config.recipe, systems, tuned)
        swept = tuple(line.partition("=")[0] for line in config.sweep)
        command = shlex.join(["python", sys.argv[0], *arguments])
        return Sweep(config, launch, systems, tuning, _evaluation(config), swept, command)


def _evaluation(config: SweepConfig) -> EvaluateConfig:
    return EvaluateConfig(
        datasets=config.datasets, shards=config.shards, task=config.task,
        protocols=tuple(name for name in config.protocols if name != FINETUNE_PROTOCOL),
        fractions=config.fractions, shots=config.shots,
    )  # fmt: skip


def points(
    recipes: Sequence[str], base: str, changes: Mapping[str, Any], sweep: Sequence[str]
) -> dict[str, Config]:
    """Return every combination of the swept values for every recipe, named after what differs.

    With a base, or of several recipes, a recipe keeps what it turns off (`cells.system`); a swept
    field is set in any case. Raises ValueError for a field or a value that does not exist, and
    where two points are one.
    """
    base_config = recipe_named(base) if base else None
    axes = [_axis(line) for line in sweep]
    _check_axes(axes)
    systems: dict[str, Config] = {}
    for recipe, values in product(recipes, product(*(axis.values for axis in axes))):
        own = RECIPES[recipe]()
        if base or len(recipes) > 1:
            own = system(own, base_config, changes)
        else:
            own = override(own, changes)
        point = {axis.field: value for axis, value in zip(axes, values, strict=True)}
        parts = [recipe] if len(recipes) > 1 or not axes else []
        parts += [f"{axis.label}={_plain(value)}" for axis, value in zip(axes, values, strict=True)]
        name = ",".join(parts)
        if name in systems:
            raise ValueError(f"two points would be called {name}; name each value once")
        systems[name] = override(own, point | {"name": name})
    return systems


class _Axis(NamedTuple):
    field: str
    label: str  # its last part, where no other axis has it
    values: tuple[str, ...]


def _axis(line: str) -> _Axis:
    field, equals, text = line.partition("=")
    kinds = field_kinds(Config)
    if field in _NOT_SWEPT:
        raise ValueError(f"--sweep {line}: {field} is not swept; {_NOT_SWEPT[field]}")
    if field not in kinds:
        near = did_you_mean(field, kinds, "see --help all")
        raise ValueError(f"--sweep {line}: a recipe has no field {field!r}; {near}")
    of_lists = get_origin(kinds[field]) is tuple and bool(get_args(kinds[field]))
    values = tuple(filter(None, text.split(";" if of_lists else ",")))
    if not equals or not values:
        more = "DIR,DIR;DIR" if of_lists else "VALUE,VALUE"
        raise ValueError(f"--sweep {line}: write --sweep '{field}={more}'")
    texts: dict[Any, str] = {}
    for text in values:
        value = cast_value(text, kinds[field], field)
        if value in texts:
            raise ValueError(
                f"--sweep {line}: {texts[value]} and {text} are one value; name each value once"
            )
        texts[value] = text
    return _Axis(field, field.rpartition(".")[2], values)


def _check_axes(axes: list[_Axis]) -> None:
    """Give fields with the same last part their whole name; ValueError for one that comes twice."""
    fields = Counter(axis.field for axis in axes)
    labels = Counter(axis.label for axis in axes)
    for index, axis in enumerate(axes):
        if fields[axis.field] > 1:
            raise ValueError(f"--sweep {axis.field}: is swept twice; give all values in one")
        if labels[axis.label] > 1:
            axes[index] = axis._replace(label=axis.field)


def _plain(value: str) -> str:
    """Return a value as it stands in a folder's name: of paths the last part."""
    names = [Path(part).name if "/" in part else part for part in value.split(",")]
    return re.sub(r"[^\w.+=-]+", "_", "+".join(names))

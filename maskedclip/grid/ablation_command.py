"""The command line of submit_ablation: systems, tasks and launch, checked before torch."""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from maskedclip.cluster_profile import profiled
from maskedclip.command import field_lines, one_line_errors, read_flags, stop
from maskedclip.config import Config, FinetuneConfig, LaunchConfig, field_names, override
from maskedclip.finetune.recipes import finetune_recipe
from maskedclip.grid.cells import REPORTED, TABLES, system
from maskedclip.recipes import RECIPES

_TUNING = "finetune."
_OURS = (  # of a fine-tuning or a pre-training: the grid says what they are
    "weights", "dataset", "task", "fraction", "name", "out", "recipe", "after.datasets",
    "after.task", "after.protocols",
)  # fmt: skip


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
    parallelism: int | None = None  # jobs of an array at a time; here processes, 1 if unset
    name: str = "ablation"  # of the grid, OUT/grids/NAME
    out: str = "runs"

    def __post_init__(self) -> None:
        if self.seeds < 1 or (self.parallelism or 1) < 1 or self.finetune_hours <= 0:
            raise ValueError("seeds and parallelism are at least 1, finetune_hours above 0")
        if not self.fractions:
            raise ValueError("fractions: name at least one, such as 0.1,1.0")
        if not self.name or self.name in (".", "..") or set(self.name) & set("/\\"):
            raise ValueError(f"name {self.name!r}: write a plain folder name")


class Ablation(NamedTuple):
    """What the command line asks for."""

    config: AblationConfig
    launch: LaunchConfig
    systems: dict[str, Config]
    finetuning: FinetuneConfig


def read_ablation(usage: str | None, arguments: list[str] | None = None) -> Ablation:
    """Return what the command line asks for; mistakes end the program in one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Fire would give a bare switch the next word
    words, flags = read_flags([w + "=true" if w == "--dry_run" else w for w in arguments])
    if flags.keys() & {"help", "h"}:
        sys.stdout.write(_help(usage))
        raise SystemExit(0)
    if words:
        stop(f"{words[0]!r}: systems are named by --table or --systems={','.join(words)}")
    with one_line_errors():
        parts = _parted(flags)
        config = override(AblationConfig(), parts["grid"])
        launch = override(profiled(flags.get("profile", "")), parts["launch"])
        systems = _systems(config, parts["run"])
        # as they were pre-trained, where nothing else is asked for
        size = {"image_size": next(iter(systems.values())).model.image_size}
        tuning = override(finetune_recipe(config.recipe), size | parts["tuning"])
        return Ablation(config, launch, systems, tuning)


def _parted(flags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the flags by whose fields they are; ValueError for one that nobody has."""
    tuning = [_TUNING + name for name in field_names(FinetuneConfig()) if name not in _OURS]
    known = {
        "grid": field_names(AblationConfig()),
        "launch": field_names(LaunchConfig()),
        "tuning": tuning,
        "run": [name for name in field_names(Config()) if name not in _OURS],
    }
    found: dict[str, dict[str, Any]] = {owner: {} for owner in known}
    for name, value in flags.items():
        owner = next((owner for owner, names in known.items() if name in names), None)
        if owner is None:
            near = difflib.get_close_matches(name, [n for names in known.values() for n in names])
            hint = f"did you mean --{near[0]}?" if near else "see --help"
            raise ValueError(f"no flag --{name}; {hint}")
        found[owner][name.removeprefix(_TUNING)] = value
    return found


def _systems(config: AblationConfig, changes: Mapping[str, Any]) -> dict[str, Config]:
    names = config.systems or dict.fromkeys(
        name for table, row in TABLES.items() if config.table in (table, "both") for name in row
    )
    if len(set(names)) < len(tuple(names)):
        raise ValueError(f"systems {','.join(names)}: one is named twice; name each once")
    if REPORTED in names:
        raise ValueError(f"systems: {REPORTED} is what the report is called")
    override(Config(), changes)  # of another kind than wanted: said before any recipe is looked at
    base = _recipe(config.base) if config.base else None
    return {name: system(_recipe(name), base, changes) for name in names}


def _recipe(name: str) -> Config:
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1) or [", ".join(RECIPES)]
        raise ValueError(f"no recipe {name!r}; did you mean {near[0]}?")
    return RECIPES[name]()


def _help(usage: str | None) -> str:
    tuning = [line for line in field_lines(FinetuneConfig()) if _name(line) not in _OURS]
    run = [line for line in field_lines(Config()) if _name(line) not in _OURS]
    lines = [str(usage).strip(), "", "Options, as --NAME=VALUE:", *field_lines(AblationConfig())]
    lines += ["", "Where and how:", *field_lines(LaunchConfig())]
    lines += ["", "Fields of every fine-tuning:"]
    lines += [line.replace("  --", f"  --{_TUNING}", 1) for line in tuning]
    lines += ["", "Fields of every pre-training, as --SECTION.FIELD=VALUE:", *run]
    return "\n".join(lines) + "\n"


def _name(line: str) -> str:
    return line.split("=")[0].strip(" -")

"""The command lines of finetune and evaluate, checked before torch is imported."""

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

from maskedclip.command import check_flags, one_line_errors, read_flags, stop
from maskedclip.config import FinetuneConfig, override
from maskedclip.data.paper_tasks import chosen
from maskedclip.data.storage.open_dataset import describe
from maskedclip.finetune.recipes import FINETUNE_RECIPES, finetune_recipe
from maskedclip.models.checkpoints.files import OWN, RANDOM, locate
from maskedclip.shards.image_folders import TASK, tree_of

T = TypeVar("T")
PROTOCOLS = ("logistic", "linear", "knn", "zeroshot")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured on frozen weights."""

    weights: str = ""  # run directory, file of an encoder, name of Hugging Face or timm
    datasets: tuple[str, ...] = ()  # directories of labelled images, or paper: its seven
    shards: str = "shards"  # where the paper's seven are looked for
    task: str = ""  # label of those datasets; empty: their first
    protocols: tuple[str, ...] = ("logistic", "knn", "zeroshot")  # logistic linear knn zeroshot
    shots: tuple[int, ...] = ()  # labels a class, for logistic regression on so few
    fractions: tuple[float, ...] = (1.0,)  # shares of the training labels, nested
    seeds: int = 1  # draws of each fraction and of the shots
    size: Literal["micro", "tiny", "small", "base", "large"] = "large"  # where weights = random
    out: str = ""  # directory of results.jsonl; empty: the run, or runs/NAME of a file
    cache: str = ""  # directory of the features; empty: OUT/features
    threads: int = 2  # decoding threads

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ValueError(f"fractions {fraction}: write shares of the labels, 0 < f <= 1")
        if self.seeds < 1 or any(number < 1 for number in self.shots):
            raise ValueError(f"seeds {self.seeds}, shots {self.shots}: all are at least 1")
        if not self.fractions or not self.protocols:
            raise ValueError("fractions and protocols: name at least one of each")


def read_finetune(usage: str | None, arguments: list[str] | None = None) -> FinetuneConfig:
    """Return the configuration that the command line gives, its weights and dataset there."""
    config = _read(usage, FinetuneConfig(), arguments)
    with one_line_errors():
        if not config.dataset:
            raise ValueError("no dataset given; add --dataset=DIR, a shard directory with labels")
        check_inputs(config.weights, [config.dataset], config.task)
    return config


def read_evaluate(usage: str | None, arguments: list[str] | None = None) -> EvaluateConfig:
    """Return the options that the command line gives, the weights and datasets there."""
    config = _read(usage, EvaluateConfig(), arguments)
    with one_line_errors():
        check_protocols(config.protocols)
        if not config.datasets:
            raise ValueError(
                "no dataset given; add --datasets=DIR,DIR, shard directories, or paper"
            )
        named, _ = chosen(config.datasets, config.task, Path(config.shards))
        check_weights(config.weights)
        for directory, task in named:
            check_dataset(directory, task)
    return config


def check_protocols(protocols: Sequence[str]) -> None:
    """Raise ValueError for an unknown protocol, with the nearest one."""
    for name in protocols:
        if name not in PROTOCOLS:
            near = difflib.get_close_matches(name, PROTOCOLS, n=1) or [" or ".join(PROTOCOLS)]
            raise ValueError(f"no protocol {name!r}; did you mean {near[0]}?")


def check_inputs(weights: str, datasets: Sequence[str], task: str) -> None:
    """Raise ValueError where weights, a dataset, or the task in its manifest is not there."""
    check_weights(weights)
    for directory in datasets:
        check_dataset(Path(directory), task)


def check_weights(weights: str) -> None:
    """Raise ValueError where there is no such run or file, nor such a name in the hub's cache."""
    if weights != RANDOM:
        locate(weights, OWN)


def check_dataset(directory: Path, task: str) -> None:
    """Raise ValueError where a dataset or a tree of images, or its task, is not there."""
    tree = tree_of(directory)
    tasks = [TASK] if tree else list(describe(directory).get("classes", {}))
    if task and tasks and task not in tasks:
        near = difflib.get_close_matches(task, tasks, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{directory}: no task {task!r}; {hint}it has {', '.join(tasks)}")


def _read(usage: str | None, default: T, arguments: list[str] | None) -> T:
    words, flags = read_flags(arguments)
    if isinstance(default, FinetuneConfig):
        with one_line_errors():
            default = cast(T, finetune_recipe(flags.get("recipe", default.recipe)))
    about = recipe_lines() if isinstance(default, FinetuneConfig) else []
    check_flags(usage, default, flags, about)
    if len(words) > 1:
        stop(f"{words[1]!r}: one run or file of weights is enough; write options as --name=value")
    if words:
        flags = {"weights": words[0]} | flags
    if not flags.get("weights"):
        stop("no weights given; name a run directory, a .safetensors or .pth file, or see --help")
    with one_line_errors():
        return override(default, flags)


def recipe_lines() -> list[str]:
    """Return a line a recipe of fine-tuning, for --help."""
    lines = ["Recipes, as --recipe=NAME:"]
    for name, recipe in FINETUNE_RECIPES.items():
        lines.append(f"  {name:13} {(inspect.getdoc(recipe) or '').splitlines()[0]}")
    return [*lines, ""]

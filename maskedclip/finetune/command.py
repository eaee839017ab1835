"""The command lines of finetune and evaluate, checked before torch is imported."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from maskedclip.casting import did_you_mean
from maskedclip.command import CommandLine, Options, Word, one_line_errors, recipe_lines
from maskedclip.config import FinetuneConfig, FrozenProtocol, refuse_repeated
from maskedclip.finetune.recipes import FINETUNE_RECIPES, finetune_recipe, following_warmup
from maskedclip.models.checkpoints.files import OWN, RANDOM, SUFFIXES, locate

PROTOCOLS = (*get_args(FrozenProtocol), "transfer")  # transfer: of fine-tuned networks
USUAL_PROTOCOLS = ("logistic", "knn", "zeroshot")  # of weights that are not fine-tuned
WEIGHTS = Word(
    "RUN_OR_WEIGHTS",
    field="weights",
    missing="no weights given; name a run directory, a .safetensors or .pth file, or see --help",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation of a frozen encoder."""

    # run directory, file of an encoder, name of Hugging Face or timm; several: A,B,A+B
    weights: str = ""
    datasets: tuple[str, ...] = ()  # directories of labelled images, or paper: its seven
    shards: str = "shards"  # where the paper's seven are
    task: str = ""  # label of those datasets; empty: their first
    classes_order: tuple[str, ...] = ()  # their classes as grades, the lowest first
    protocols: tuple[str, ...] = ()  # empty: transfer if fine-tuned, else logistic,knn,zeroshot
    whole: bool = False  # transfer: test on all labelled images, not on the test split alone
    shots: tuple[int, ...] = ()  # labels a class, for logistic regression on so few
    fractions: tuple[float, ...] = (1.0,)  # shares of the training labels, nested
    seeds: int = 1  # draws of each fraction and of the shots
    seed: int = 0  # the first of them; what is not drawn has this one
    size: Literal["micro", "tiny", "small", "base", "large"] = "large"  # where weights = random
    image_size: int = 0  # pixels, square; 0: as the weights were trained
    folds: int = 0  # of cross-validation by patient: every image is tested once; 0: the split
    group: str = ""  # classes joined into negatives|positives, too, such as "0,1|2,3,4"
    at_sensitivity: float = 0.0  # that the threshold reaches on validation; 0: Youden's J
    # directory of results.jsonl; empty: the run, or runs/NAME of a file, of several runs/encoders
    out: str = ""
    cache: str = ""  # directory of the features; empty: OUT/features
    threads: int | None = None  # decoding; None: by this process's cores; 0: none of their own
    images: bool = False  # photographs in TensorBoard's projector whatever their licence says

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ValueError(
                    f"fractions {fraction}: write shares of the labels, 0 < f <= 1; 10 % is 0.1"
                )
        if self.seeds < 1 or any(number < 1 for number in self.shots):
            raise ValueError(f"seeds {self.seeds}, shots {self.shots}: all are at least 1")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} is negative; use 0 or more")
        if self.threads is not None and self.threads < 0:
            raise ValueError(f"threads {self.threads} is negative; use 0 or more")
        check_threshold(self.group, self.at_sensitivity)
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds {self.folds}: use 2 or more, or 0 for the split")
        if self.folds and (self.shots or self.at_sensitivity):
            what = "shots" if self.shots else "at_sensitivity"
            raise ValueError(f"folds {self.folds} with {what}: leave one out; folds have none")
        if self.image_size < 0:
            raise ValueError(f"image_size {self.image_size} is negative; use 0 or more")
        refuse_repeated(self.classes_order)
        if not self.fractions:
            raise ValueError("fractions: name at least one")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """How a fine-tuning is carried out, beside what it learns."""

    folds: int = 0  # of cross-validation by patient: every image is tested once; 0: the split
    dry_run: bool = False  # print what would be trained, and the memory planned; write nothing

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds {self.folds}: use 2 or more, or 0 for the split")


class FinetuneRequest(NamedTuple):
    """What the command line of finetune asks for."""

    config: FinetuneConfig
    folds: int  # 0: the split
    dry_run: bool


def check_threshold(group: str, at_sensitivity: float) -> None:
    """Raise ValueError for classes that are not two sides, or a sensitivity that is no share."""
    if group and group.count("|") != 1:
        raise ValueError(
            f"group {group!r}: write the negative classes, a bar and the positive ones, such as "
            f"--group='0,1|2,3,4'"
        )
    if not 0 <= at_sensitivity <= 1:
        raise ValueError(f"at_sensitivity {at_sensitivity}: write a share, 0 < x <= 1")


EVALUATE = CommandLine(Options(EvaluateConfig()), words=[WEIGHTS])


def finetune_line(recipe: str) -> CommandLine:
    """Return the words and flags of finetune, whose defaults are a recipe's."""
    way = Options(FinetuneOptions(), "How it is carried out:")
    return CommandLine(Options(finetune_recipe(recipe)), way, words=[WEIGHTS])


def read_finetune(usage: str | None, arguments: Sequence[str] | None = None) -> FinetuneRequest:
    """Return what the command line asks for; its weights and dataset exist."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with one_line_errors():
        recipe = finetune_line("paper").parse(arguments).changes[0].get("recipe", "paper")
        given = finetune_line(recipe).read(usage, arguments, finetune_recipe_lines())
        changes, of_way = given.changes
        changes = following_warmup(finetune_recipe(recipe), changes)
        given = replace(given, changes=(changes, of_way))
        config, way = given.config(), given.config(1)
        check_finetune(config)
    return FinetuneRequest(config, way.folds, way.dry_run)


def check_finetune(config: FinetuneConfig) -> None:
    """Raise ValueError where the weights, the dataset or its task are not given or not there."""
    if not config.dataset:
        raise ValueError("no dataset given; add --dataset=DIR, a shard directory with labels")
    check_inputs(config.weights, [config.dataset], config.task)


def read_evaluate(usage: str | None, arguments: Sequence[str] | None = None) -> EvaluateConfig:
    """Return the options that the command line gives; its weights and datasets exist."""
    given = EVALUATE.read(usage, arguments)
    with one_line_errors():
        config: EvaluateConfig = given.config()
        check_evaluate(config)
    return config


def check_evaluate(config: EvaluateConfig) -> None:
    """Raise ValueError where weights, datasets, tasks or protocols are not given or not there."""
    check_protocols(config.protocols)
    if not config.datasets:
        raise ValueError("no dataset given; add --datasets=DIR,DIR, shard directories, or paper")
    from maskedclip.data.paper_tasks import chosen  # numpy, for which --help does not wait

    named, _ = chosen(config.datasets, config.task, Path(config.shards))
    for encoder in encoders_of(config.weights):
        for weights in encoder:
            check_weights(weights)
    for directory, task in named:
        check_dataset(directory, task)


def check_protocols(protocols: Sequence[str]) -> None:
    """Raise ValueError for an unknown protocol, with the nearest one."""
    for name in protocols:
        if name not in PROTOCOLS:
            near = did_you_mean(name, PROTOCOLS, f"use some of {', '.join(PROTOCOLS)}")
            raise ValueError(f"no protocol {name!r}; {near}")


def check_inputs(weights: str, datasets: Sequence[str], task: str) -> None:
    """Raise ValueError where weights, a dataset, or the task in its manifest does not exist."""
    check_weights(weights)
    for directory in datasets:
        check_dataset(Path(directory), task)


def check_weights(weights: str) -> None:
    """Raise ValueError for weights that are no run, no file and no name in the hub's cache."""
    if not weights:
        raise ValueError(WEIGHTS.missing)
    if weights != RANDOM:
        locate(weights, OWN, or_random=True)


def encoders_of(weights: str) -> list[list[str]]:
    """Return the encoders of A,B,A+B, each as its members: one, or those of an ensemble.

    A path that is there stays whole, whatever commas it has.
    """
    if Path(weights).exists():
        return [[weights]]
    encoders = [[one] if Path(one).exists() else one.split("+") for one in weights.split(",")]
    if repeated := [one for one in encoders if encoders.count(one) > 1]:
        raise ValueError(f"{'+'.join(repeated[0])}: named twice; name each encoder once")
    return encoders


def check_dataset(directory: Path, task: str) -> None:
    """Raise ValueError where a dataset or a tree of images, or its task, does not exist."""
    from maskedclip.data.label_kinds import refuse_unlabelled
    from maskedclip.data.storage.open_dataset import describe  # numpy, too
    from maskedclip.shards.image_folders import TASK, tree_of

    if any((directory / name).is_file() for name in OWN):
        raise ValueError(f"{directory}: is a run, not a dataset; name shards or a tree of images")
    if directory.is_file() and directory.suffix in SUFFIXES and directory.suffix != ".tar":
        raise ValueError(f"{directory}: is a file of weights, not a dataset; name shards")
    tree = tree_of(directory)
    found = {} if tree else describe(directory)
    refuse_unlabelled(directory, found)
    tasks = [TASK] if tree else list(found.get("classes", {}) | found.get("kinds", {}))
    if task and tasks and task not in tasks:
        hint = f"{did_you_mean(task, tasks, '')} it has {', '.join(tasks)}".strip()
        raise ValueError(f"{directory}: no task {task!r}; {hint}")


def finetune_recipe_lines() -> list[str]:
    """Return a line a recipe of fine-tuning, for --help."""
    return recipe_lines("Recipes, as --recipe=NAME:", FINETUNE_RECIPES)

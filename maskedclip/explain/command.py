"""The command line of explain, checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskedclip.casting import did_you_mean
from maskedclip.command import CommandLine, Options, Word, one_line_errors
from maskedclip.models.checkpoints.files import OWN, locate

METHODS = ("rollout", "cls", "relevance", "text")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Which maps are drawn, of which images."""

    weights: str = ""  # run directory, .safetensors or .pth of an encoder
    images: tuple[str, ...] = ()  # files
    dataset: str = ""  # or a shard directory: of its test split where it has one
    count: int = 8  # images drawn from the dataset
    phantoms: int = 0  # or play the pointing game on this many, drawn with known lesions
    untrained: int = 0  # seed: that game with weights drawn anew, so what the image alone gives
    methods: tuple[str, ...] = METHODS
    prompts: tuple[str, ...] = ()  # findings for relevance and text; empty: a few common ones
    classes: tuple[str, ...] = ()  # of a fine-tuned head for relevance; empty: the likeliest
    field_of_view: bool = False  # first crop image files to the fundus, as make_shards does
    out: str = ""  # directory; empty: explain in the run, or runs/NAME/explain of a file


EXPLAIN = CommandLine(
    Options(ExplainConfig()),
    words=[
        Word(
            "RUN_OR_WEIGHTS",
            field="weights",
            missing="no weights given; name a run directory, a .safetensors or .pth file, or see "
            "--help",
        )
    ],
)


def read_explain(usage: str | None, arguments: Sequence[str] | None = None) -> ExplainConfig:
    """Return the options that the command line gives; its weights and images exist."""
    given = EXPLAIN.read(usage, arguments)
    with one_line_errors():
        config: ExplainConfig = given.config()
        locate(config.weights, OWN)
        check_methods(config.methods)
        _check_images(config)
    return config


def check_methods(methods: Sequence[str]) -> None:
    """Raise ValueError where there is none, or an unknown one, with the nearest."""
    if not methods:
        raise ValueError(f"no method given; use --methods={','.join(METHODS)}, or some of them")
    for name in methods:
        if name not in METHODS:
            near = did_you_mean(name, METHODS, f"use some of {', '.join(METHODS)}")
            raise ValueError(f"no method {name!r}; {near}")


def _check_file(path: str) -> None:
    if Path(path).is_dir():
        raise ValueError(
            f"--images {path}: is a folder; name its files, as --images=FILE,FILE, or shards, as "
            f"--dataset=DIR"
        )
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such image")


def _check_images(config: ExplainConfig) -> None:
    given = [name for name in ("images", "dataset", "phantoms") if getattr(config, name)]
    if len(given) != 1:
        flags = " and ".join(f"--{name}" for name in given) or "nothing"
        raise ValueError(
            f"what to explain: {flags} given; give one of --images=FILE,FILE, --dataset=DIR and "
            f"--phantoms=COUNT"
        )
    if config.untrained and not config.phantoms:
        raise ValueError(
            "--untrained=SEED goes with --phantoms=COUNT alone: it is that game's control"
        )
    for path in config.images:
        _check_file(path)
    stems = [Path(path).stem for path in config.images]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ValueError(f"--images: two are called {stem}; their maps would be one file")
    if config.dataset:
        from maskedclip.data.storage.open_dataset import describe  # numpy: --help does not wait

        describe(Path(config.dataset))
        if config.count < 1:
            raise ValueError(f"--count={config.count}: give 1 or more")
    elif config.phantoms and config.phantoms < 10:
        raise ValueError(f"--phantoms={config.phantoms}: too few to tell anything; give 10 or more")

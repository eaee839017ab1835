"""The command line of predict, checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskedclip.command import CommandLine, Options, Word, one_line_errors
from maskedclip.models.checkpoints.files import locate_classifier


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """A fine-tuned network, and the images that it is applied to."""

    run: str = ""  # fine-tuned run, or its finetuned.safetensors
    folder: str = ""  # folder of images, one image, or shard directory
    out: str = "predictions.csv"  # beside it: NAME.rows.jsonl, by which the command goes on
    batch: int = 64  # images at a time
    threads: int | None = None  # decoding; None: by this process's cores; 0: none of their own

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch {self.batch}: use 1 or more")
        if self.threads is not None and self.threads < 0:
            raise ValueError(f"threads {self.threads} is negative; use 0 or more")


PREDICT = CommandLine(
    Options(PredictConfig()),
    words=[
        Word("RUN", field="run", missing="no run given; name a fine-tuned run, or see --help"),
        Word("FOLDER", field="folder", missing="no folder given; name the images, or see --help"),
    ],
)


def read_predict(usage: str | None, arguments: Sequence[str] | None = None) -> PredictConfig:
    """Return the options that the command line gives; its run and images exist."""
    given = PREDICT.read(usage, arguments)
    with one_line_errors():
        config: PredictConfig = given.config()
        check_predict(config)
    return config


def check_predict(config: PredictConfig) -> None:
    """Raise ValueError where a run or its images are not there, or the table is to be no CSV."""
    locate_classifier(config.run)
    out = Path(config.out)
    if not config.folder or not Path(config.folder).exists():
        raise ValueError(f"{config.folder}: no such folder or image; name what to predict")
    if out.is_dir():
        raise ValueError(
            f"--out {out}: is a folder; name a file, such as {out}/{Path(PredictConfig.out)}"
        )
    if out.suffix.lower() != ".csv":
        raise ValueError(f"--out {out}: is written as CSV; use --out {out.name}.csv")

"""The pre-flight check: what a run needs before its job is queued."""

from pathlib import Path

from maskedclip.config import Config
from maskedclip.data.storage.open_dataset import describe
from maskedclip.models.checkpoints.files import ENCODER, MODEL, locate
from maskedclip.shards.make import ShardRequest, build


def prepare(config: Config) -> None:
    """Check everything the run will read, and draw the demo's phantoms if they are missing.

    Raises ValueError for a directory without shards, an unset source, or a text tower that is not
    on this machine: at once, and not after hours in a queue.
    """
    from maskedclip.pretrain.methods import method_of  # loads torch

    method_of(config)
    for name in ("paired", "unpaired"):
        if missing := unnamed(config, name):
            raise ValueError(f"data.{name}: {missing}")
    directories = [*config.data.paired, *config.data.unpaired, *config.after.datasets]
    for number, directory in enumerate(map(Path, directories)):
        drawn = config.data.draw_phantoms and directory.name.startswith("phantom")
        if drawn and not (directory / "manifest.json").exists():
            _draw(directory, config, number)
        describe(directory)
    if config.init_from:
        locate(config.init_from, (MODEL, ENCODER))
    if config.loss.clip:
        from maskedclip.models.text import check_text

        check_text(config.model.text)


def unnamed(config: Config, source: str) -> str:
    """Return what to pass where the shards of "paired" or "unpaired" are not named; else ""."""
    if not getattr(config.data, f"{source}_batch") or getattr(config.data, source):
        return ""
    spared = source == "unpaired" or not config.loss.clip  # without a contrast no pairs are needed
    without = f" or --data.{source}_batch=0 to do without" if spared else ""
    return f"no shard directory is named; pass --data.{source}=DIR,...{without}"


def _draw(directory: Path, config: Config, number: int) -> None:
    """Build a phantom dataset; each of a run's datasets shows other eyes."""
    size = -(-config.model.image_size // 32) * 32 + 32  # a little larger than the crops
    build(
        ShardRequest(
            dataset="phantom",
            out=directory,
            name=directory.name,
            size=size,
            count=config.data.draw_phantoms,
            seed=number * 1_000_000,
        )
    )

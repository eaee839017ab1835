"""Pre-training, from Python in one call; torch is imported by the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from maskedclip.config import Config


def pretrain(config: Config) -> Path:
    """Pre-train in this process, or as one of torchrun's ranks; return the run's directory.

    The same call again continues from the newest verified checkpoint. What `config.after` names is
    measured by the command alone: call `maskedclip.evaluate.evaluate`. Raises ValueError, and
    RuntimeError, as `maskedclip.pretrain.loop.pretrain` says.
    """
    from maskedclip.engine.device_settings import grow_segments

    grow_segments()  # before torch is imported, where it is not yet
    from maskedclip.pretrain.loop import pretrain as train

    return train(config)

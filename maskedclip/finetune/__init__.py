"""Fine-tuning, from Python in one call; torch is imported by the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from maskedclip.config import FinetuneConfig


def finetune(config: FinetuneConfig, *, folds: int = 0) -> Path:
    """Fine-tune, select an epoch on validation, test once; return the run's directory.

    Its rows are read by `maskedclip.metrics.results.read_rows`. A finished run is not run again, a
    killed one resumes. Raises ValueError for weights or labels that are not there or do not fit.

    Args:
        folds: of cross-validation by patient, in place of the split; 0: the split.
    """
    from maskedclip.engine.device_settings import grow_segments
    from maskedclip.finetune.command import FinetuneOptions, check_finetune

    FinetuneOptions(folds=folds)  # refuses what no command line takes
    check_finetune(config)
    grow_segments()  # before torch is imported, where it is not yet
    from maskedclip.finetune.cross_validation import cross_validate
    from maskedclip.finetune.loop import finetune as train

    return cross_validate(config, folds) if folds else train(config)

"""Whose test images a run leaves out of pre-training, by its configuration alone."""

import logging
from pathlib import Path

from maskedclip.config import Config
from maskedclip.data.paper_tasks import chosen

logger = logging.getLogger(__name__)


def leaves_out(config: Config) -> bool:
    """Return whether a run leaves test images out of pre-training."""
    return bool(config.data.leave_out_tests or config.data.leave_out_tests_of)


def left_out_datasets(config: Config) -> list[Path]:
    """Return the datasets, besides the sources, whose test images a run leaves out."""
    data = config.data
    named = [*(config.after.datasets if data.leave_out_tests else ()), *data.leave_out_tests_of]
    pairs, missing = chosen(dict.fromkeys(named), "", Path("shards"))
    for line in missing:
        logger.warning("data.leave_out_tests_of: %s", line)
    return [directory for directory, _ in pairs]

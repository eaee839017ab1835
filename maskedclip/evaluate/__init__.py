"""Frozen weights evaluated, from Python in one call; torch is imported by the call."""

from __future__ import annotations

from typing import Any

from maskedclip.finetune.command import EvaluateConfig, check_evaluate

__all__ = ["EvaluateConfig", "evaluate"]


def evaluate(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Run what is not measured yet, print the table; return a row a score, as in results.jsonl.

    Raises ValueError for weights, datasets, tasks or protocols that are not there.
    """
    check_evaluate(config)
    from maskedclip.evaluate.several import run_all

    return run_all(config)

"""What the page on monitoring says of Weights & Biases and of MLflow runs as it stands."""

import json
from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.pretrain.loop import pretrain
from tests.docs.pages import ROOT, blocks

pytestmark = pytest.mark.slow
OF_WANDB, OF_MLFLOW = blocks(ROOT / "docs" / "monitoring.md", "python")


def test_wandb_has_the_curves_of_a_run_as_they_were_written(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="no wandb, which is no dependency: pip install wandb")
    monkeypatch.chdir(tmp_path)
    exec(OF_WANDB.replace("demo())", "small)"), {"small": small})
    (file,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for tag in (b"losses/loss_mim", b"optimiser/lr", b"goodput/productive"):
        assert content.count(tag) >= small.optim.steps


def test_mlflow_has_the_numbers_of_each_row(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="no mlflow, which is no dependency")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = pretrain(override(small, {"name": "demo"}))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    exec(OF_MLFLOW, {})
    (logged,) = mlflow.search_runs(output_format="list")
    points = mlflow.MlflowClient().get_metric_history(logged.info.run_id, "loss_mim")
    assert {point.step: point.value for point in points} == {
        row["step"]: row["loss_mim"] for row in rows
    }

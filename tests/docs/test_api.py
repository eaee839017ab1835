"""The calls of docs/api.md, in their order, on phantoms; what they refuse; what they import."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from maskedclip.config import FinetuneConfig
from maskedclip.evaluate import EvaluateConfig, evaluate
from maskedclip.finetune import finetune
from maskedclip.metrics.results import read_rows
from maskedclip.predict import PredictConfig, predict
from maskedclip.report import report
from maskedclip.shards.phantoms.phantom import draw
from tests.docs.pages import ROOT, blocks

SHORTER = {  # what the page has, and what a second takes
    "maskedclip_vitt": "demo",
    '_batch": 16': '_batch": 4',
    '"optim.steps": 400': (
        '"optim.steps": 2, "data.threads": 0, "model.image_size": 32, "after.datasets": ()'
    ),
    'datasets=("shards/idrid",)': 'datasets=("shards/idrid",), threads=0',
    '"epochs": 50, "warmup_epochs": 10': '"epochs": 1, "warmup_epochs": 0, "threads": 0',
    'out="predictions.csv"': 'out="predictions.csv", threads=0',
}
VERBS = ("pretrain", "finetune", "evaluate", "predict", "report")


def test_the_calls_of_the_page_run_in_their_order(
    phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = "\n".join(blocks(ROOT / "docs" / "api.md", "python"))
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    (tmp_path / "shards").mkdir()
    for name, source in (("odir5k", "paired"), ("clinic", "unpaired"), ("idrid", "heldout")):
        (tmp_path / "shards" / name).symlink_to(phantoms[source])
    (tmp_path / "my_images").mkdir()
    assert cv2.imwrite(str(tmp_path / "my_images" / "eye.png"), draw(1, 96).image_HWC)
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(text, found)
    assert found["run"] == Path("runs/small")
    stored = read_rows(tmp_path / "runs" / "small")
    assert {row["protocol"] for row in stored} == {"knn", "zeroshot"}
    assert [row for row in found["rows"] if row["metric"] == "auroc"] == [
        row for row in stored if row["metric"] == "auroc"
    ]
    with found["table"].open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["path"] == "eye.png"
    assert sum(float(row[name]) for name in list(row)[2:]) == pytest.approx(1)
    assert found["written"].page == Path("report/index.html")
    assert found["written"].page.is_file()


def test_a_wrong_call_is_refused_in_one_line_before_anything_is_written(
    phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    data = str(phantoms["heldout"])
    calls = {
        "no weights given": lambda: evaluate(EvaluateConfig(datasets=(data,))),
        "did you mean logistic": lambda: evaluate(
            EvaluateConfig(weights="random", datasets=(data,), protocols=("logistik",))
        ),
        "no task 'grade'": lambda: finetune(
            FinetuneConfig(weights="random", dataset=data, task="grade")
        ),
        "folds 1": lambda: finetune(FinetuneConfig(weights="random", dataset=data), folds=1),
        "no such run": lambda: predict(PredictConfig(run="runs/none", folder=data)),
        "no run given": lambda: report([]),
        "runs: no such directory": lambda: report(["runs"]),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_functions_are_imported_without_torch_and_numpy():
    lines = [f"from maskedclip.{verb} import {verb}" for verb in VERBS]
    code = "; ".join(["import sys", *lines, "print(*sys.modules)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "maskedclip.report" in loaded
    assert (
        loaded & {"torch", "numpy", "timm", "transformers", "sklearn", "cv2", "matplotlib"} == set()
    )

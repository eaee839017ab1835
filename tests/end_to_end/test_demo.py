"""The main job through the launcher, in a process of its own, as a user sees it."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

import maskedclip
from maskedclip.metrics.scores import METRICS

ROOT = Path(__file__).parents[2]


def test_the_demo_trains_measures_and_says_what_to_do_next(tmp_path):
    words = [
        "demo",
        "--cluster=local",
        "--gpus=0",
        "--data.draw_phantoms=60",
        "--optim.steps=8",
        "--model.image_size=32",
        "--data.paired_batch=8",
        "--data.unpaired_batch=8",
        "--engine.save_every=4",
    ]
    command = [sys.executable, str(ROOT / "launchers" / "submit_pretrain.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 8/8" in done.stderr
    assert "left" in done.stderr
    for part in (
        "AUROC", "logistic", "zeroshot", "tensorboard --logdir", "maskedclip.finetune",
        "phantom_heldout disease, logistic: AUROC ", " against the untrained encoder, on the same ",
        "picture: runs/demo/summary.png",
    ):  # fmt: skip
        assert part in done.stdout
    run = tmp_path / "runs" / "demo"
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert {(row["protocol"], row["metric"]) for row in rows} == {
        (protocol, metric) for protocol in ("logistic", "zeroshot") for metric in METRICS
    }
    assert len(list((run / "predictions").glob("*-test.csv"))) == 2
    with Image.open(run / "summary.png") as picture:
        assert picture.size == (1100, 825)
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours
    assert len(colours) > 1000  # photographs are on it
    assert maskedclip.load(run).encode_text(["drusens"]).shape == (1, 512)

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "step 8/8" not in again.stderr  # finished, and measured: only shown again

    failing = [*command, "--name=other", "--data.unpaired=shards/nowhere"]
    failed = subprocess.run(failing, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "other").exists()


def test_an_error_inside_a_local_job_is_one_line_with_the_way_to_its_log(tmp_path, phantoms):
    words = [
        "demo",
        "--cluster=local",
        "--gpus=0",
        "--optim.steps=3",
        "--optim.lr=1e30",
        "--model.image_size=32",
        "--optim.warmup_epochs=0.1",
        f"--data.paired={phantoms['paired']}",
        f"--data.unpaired={phantoms['unpaired']}",
        f"--after.datasets={phantoms['heldout']}",
        "--data.paired_batch=4",
        "--data.unpaired_batch=4",
    ]
    command = [sys.executable, str(ROOT / "launchers" / "submit_pretrain.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is nan" in done.stderr.splitlines()[-1] or "is inf" in done.stderr.splitlines()[-1]
    assert "whole log" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr

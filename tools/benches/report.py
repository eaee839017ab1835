"""How long a report takes: tables, figure and a page a run, of runs as fine-tuning leaves them."""

import json
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np

from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import save_and_score, write_rows
from maskedclip.report.build import report as write_report
from maskedclip.report.command import ReportConfig

TASKS = {  # the paper's seven: task, classes, images of the test split
    "aptos2019": ("diabetic_retinopathy", 5, 1000),
    "idrid": ("diabetic_retinopathy", 5, 103),
    "messidor2": ("diabetic_retinopathy", 5, 524),
    "glaucoma_fundus": ("glaucoma", 3, 465),
    "origa": ("glaucoma", 2, 195),
    "jsiec": ("disease", 39, 313),
    "retina": ("disease", 4, 183),
}
METHODS, FRACTIONS, SEEDS = ("random", "mae", "mae_clip", "maskedclip"), (0.1, 0.5, 1.0), 3
BEFORE = 69.0  # seconds of processor time of 252 runs, before pages were drawn by hand


def report() -> dict[str, float]:
    """Return the processor time of a report on 252 runs; writing the runs is not counted.

    All of them are of drawn predictions: 4 methods, the paper's 7 tasks, 3 shares of the labels and
    3 seeds, with test splits of the published sizes. `ratio` is 69 s over what is measured.
    """
    with tempfile.TemporaryDirectory() as name:
        runs, out = Path(name) / "runs", Path(name) / "report"
        places = list(product(enumerate(METHODS), TASKS, FRACTIONS, range(SEEDS)))
        for (rank, method), dataset, fraction, seed in places:
            skill = 0.5 + 0.5 * rank + 0.5 * fraction
            _write_run(runs, method, dataset, fraction, seed, skill)
        start, used = time.perf_counter(), time.process_time()
        write_report([runs], ReportConfig(out=str(out), pictures=0))
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
        pages = len(list((out / "runs").glob("*.html")))
    return {"runs": len(places), "pages": pages, "s": seconds, "cpu_s": cpu, "ratio": BEFORE / cpu}


def _write_run(
    runs: Path, method: str, dataset: str, fraction: float, seed: int, skill: float
) -> None:
    task, classes, images = TASKS[dataset]
    run = runs / f"{method}-{dataset}-{fraction:g}-seed{seed}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"weights": "random"}))
    label_B = np.random.default_rng(images).permutation(np.arange(images) % classes)
    logit_BY = np.random.default_rng((seed, images)).normal(size=(images, classes))
    logit_BY[np.arange(images), label_B] += skill
    probability_BY = np.exp(logit_BY) / np.exp(logit_BY).sum(axis=1, keepdims=True)
    keys = [f"{dataset}{i:04d}" for i in range(images)]
    units = [f"patient{i // 2}" for i in range(images)]
    identity = {
        "run": run.name, "dataset": dataset, "task": task, "protocol": "finetune",
        "fraction": fraction, "seed": seed,
    }  # fmt: skip
    rows = save_and_score(
        identity, [str(i) for i in range(classes)],
        Predictions(keys, units, label_B, probability_BY), run,
        method=method, shards=runs / "shards" / dataset,
    )  # fmt: skip
    write_rows(run, rows)

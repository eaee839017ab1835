"""Where patients are unknown, every table says that its intervals draw images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards
from maskedclip.finetune.measured_rows import measured_rows
from maskedclip.metrics import results
from maskedclip.metrics.known_patients import counted, drawn_in_words, images_in_words
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.report.build import report
from maskedclip.report.command import ReportConfig
from maskedclip.report.compare_methods import compare
from tests.tars import END, JPEG, member

FILE = "0123456789abcdef" * 4
KEYS = [f"k{i}" for i in range(40)]
UNKNOWN = [*KEYS[:20], *[f"{i:064x}" for i in range(20)]]  # of third-party tars, and of ours
KNOWN = [f"p{i // 2}" for i in range(40)]
PARTLY = [*KNOWN[:10], *UNKNOWN[10:]]


def test_hashes_of_files_and_keys_are_no_patients() -> None:
    assert counted(KEYS, UNKNOWN) == {"patients": 0, "with_patient": 0}
    assert counted(KEYS, KNOWN) == {"patients": 20, "with_patient": 40}
    assert counted(KEYS, PARTLY) == {"patients": 5, "with_patient": 10}


@pytest.mark.parametrize(
    ("units", "words", "images"),
    [
        (KNOWN, "", "40 images of 20 patients"),
        (
            UNKNOWN,
            "patients unknown, intervals draw images",
            "40 images (patients unknown, intervals draw images)",
        ),
        (
            PARTLY,
            "patients known of 10 of 40 test images, intervals draw the others one by one",
            "40 images of 5 patients and unknown ones (patients known of 10 of 40 test images, "
            "intervals draw the others one by one)",
        ),
    ],
)
def test_what_is_drawn_is_said_where_it_is_not_patients(
    units: list[str], words: str, images: str
) -> None:
    assert drawn_in_words(counted(KEYS, units) | {"n": 40}) == words
    assert images_in_words(KEYS, units) == images


def measured(run: Path, units: list[str]) -> Path:
    identity = {
        "run": run.name, "dataset": "idrid", "task": "grade", "protocol": "finetune",
        "fraction": 1.0, "seed": 0,
    }  # fmt: skip
    label_B = np.arange(40) % 2
    score_B = np.random.default_rng(0).uniform(0, 0.6, 40) + 0.4 * label_B
    predictions = Predictions(KEYS, units, label_B, np.stack([1 - score_B, score_B], axis=1), True)
    rows = results.save_and_score(
        identity, ["a", "b"], predictions, run, method=run.name, shards=run
    )
    results.write_rows(run, rows)
    return run


@pytest.mark.parametrize("older", [False, True])
def test_table_report_and_compare_say_it_also_of_older_runs(tmp_path: Path, older: bool) -> None:
    run = measured(tmp_path / "one", UNKNOWN)
    if older:  # whose rows had no such fields
        rows: list[dict[str, Any]] = results.read_rows(run)
        for row in rows:
            del row["patients"], row["with_patient"]
        results.write_rows(run, rows)
    line = "patients unknown, intervals draw images"
    assert results.table(measured_rows(run)).endswith(f"idrid grade: {line}.\n")
    assert f"40 images ({line})" in compare(run, run)
    made = report([run], ReportConfig(out=str(tmp_path / "report")))
    assert f"idrid: {line}." in made.text
    for file in ("index.html", "table1.md", "table1.tex"):
        assert f": {line}." in (tmp_path / "report" / file).read_text()
    (page,) = (tmp_path / "report" / "runs").glob("*.html")
    assert "Patients unknown, intervals draw images." in page.read_text()


def test_where_patients_are_known_nothing_more_is_said(tmp_path: Path) -> None:
    run = measured(tmp_path / "one", KNOWN)
    assert "intervals draw" not in results.table(measured_rows(run))
    assert "40 images of 20 patients" in compare(run, run)
    report([run], ReportConfig(out=str(tmp_path / "report")))
    assert "draw images" not in (tmp_path / "report" / "table1.md").read_text()


def test_a_patient_that_is_written_as_a_hash_of_a_file_is_a_patient(tmp_path: Path) -> None:
    facts = [{"patient": FILE, "labels": {"dr": "0"}}, {"patient": "k1", "labels": {"dr": "1"}}]
    samples = (
        member(f"k{i}.jpg", JPEG) + member(f"k{i}.json", json.dumps(one).encode())
        for i, one in enumerate(facts)
    )
    (tmp_path / "own.tar").write_bytes(b"".join([*samples, END]))
    task = labelled(Shards(tmp_path / "own.tar"))
    units = [sample.unit for sample in task.samples]
    assert counted([sample.key for sample in task.samples], units)["with_patient"] == 2

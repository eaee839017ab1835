"""Rows of before classes said their order: a quadratic kappa of no grades is not shown."""

import json
from pathlib import Path

import pytest

from maskedclip.finetune.measured_rows import measured_rows
from maskedclip.metrics.result_record import RESULTS
from maskedclip.metrics.results import save_and_score, write_rows
from maskedclip.report.collect import collect
from tests.answers import measured

CASES = [
    (["mild", "none", "severe"], False),
    (["none", "mild", "severe"], True),
    (["1", "10", "2"], False),
    (["cataract", "glaucoma", "normal"], False),
    (["0", "1", "2"], True),
]


def old_rows(run: Path, classes: list[str]) -> float:
    """Write rows as they were before they said `ordered`; return their kappa."""
    identity = {
        "run": run.name, "dataset": "d", "task": "t", "protocol": "finetune", "fraction": 1.0,
        "seed": 0,
    }  # fmt: skip
    rows = save_and_score(identity, classes, measured(), run, method="m", shards=run / "shards")
    write_rows(run, [{k: v for k, v in row.items() if k != "ordered"} for row in rows])
    return next(row["value"] for row in rows if row["metric"] == "quadratic_kappa")


@pytest.mark.parametrize(("classes", "ordered"), CASES)
def test_an_older_kappa_is_shown_where_the_classes_are_in_the_order_of_grades(
    tmp_path: Path, classes: list[str], ordered: bool
) -> None:
    value = old_rows(tmp_path / "run", classes)
    (row,) = [one for one in measured_rows(tmp_path / "run") if one["metric"] == "quadratic_kappa"]
    assert row["value"] == (value if ordered else None)
    assert row["note"].startswith("no quadratic kappa") != ordered
    (result,) = collect([tmp_path], "finetune").results
    assert result.scores["quadratic_kappa"].value == row["value"]
    stored = [json.loads(line) for line in (tmp_path / "run" / RESULTS).read_text().splitlines()]
    assert value in [one["value"] for one in stored]  # the file itself is left as it is

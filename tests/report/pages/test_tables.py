"""Cells, averages and marks of the tables."""

import csv
import io
from pathlib import Path

import pytest

from maskedclip.metrics.comparison import over_seeds
from maskedclip.metrics.scores import Score
from maskedclip.report.collect import results_of
from maskedclip.report.pages.tables import Column, columns_of, marks, percent, table
from maskedclip.report.pages.text_tables import csv_table, latex, markdown
from maskedclip.report.result import Result

PAPER = (Column("APTOS", "aptos2019", "grade"), Column("IDRiD", "idrid", "grade"))


def result(method: str, dataset: str, value: float | None, **facts: object) -> Result:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.05)
    scores = {
        "auroc": Score(value, low, high, 50, note="" if value is not None else "one class"),
        "average_precision": Score(value, low, high, 50),
    }
    fields = {
        "directory": Path("runs") / method, "method": method, "run": method, "dataset": dataset,
        "task": "grade", "protocol": "finetune", "fraction": 1.0, "seed": 0, "n": 50,
        "scores": scores,
    }  # fmt: skip
    return Result(**(fields | facts))  # type: ignore[arg-type]


def test_the_best_and_the_second_are_marked_as_they_are_written() -> None:
    assert marks([0.8, 0.9, 0.7]) == ["second", "best", ""]
    assert marks([0.9001, 0.9004, 0.7]) == ["best", "best", "second"]  # both 90.0
    assert marks([0.9, 0.8, 0.8, None]) == ["best", "second", "second", ""]


def test_a_single_value_is_not_marked() -> None:
    assert marks([None, 0.9]) == ["", ""]


def test_columns_are_those_of_the_papers_that_were_measured_and_then_others() -> None:
    runs = [result("a", "clinic", 0.8), result("a", "idrid", 0.8)]
    assert [column.name for column in columns_of(runs, PAPER)] == ["IDRiD", "clinic"]


def test_where_none_of_the_papers_tasks_is_there_only_others_are_columns() -> None:
    assert [column.name for column in columns_of([result("a", "clinic", 0.8)], PAPER)] == ["clinic"]


def test_two_tasks_of_a_dataset_are_two_columns_with_the_task_in_the_name() -> None:
    runs = [result("a", "clinic", 0.8), result("a", "clinic", 0.8, task="edema")]
    names = [column.name for column in columns_of(runs, PAPER)]
    assert names == ["clinic grade", "clinic edema"]


def test_the_average_is_of_the_papers_tasks_alone() -> None:
    runs = [result("a", name, value) for name, value in (("aptos2019", 0.8), ("idrid", 0.6))]
    runs.append(result("a", "clinic", 0.1))
    found = table(runs, columns_of(runs, PAPER))
    average = found.blocks[0].lines[0].averages["auroc"]
    assert average.mean == pytest.approx(0.7)
    assert [group.name if group else None for group in found.groups] == [
        "APTOS", "IDRiD", None, "clinic",
    ]  # fmt: skip


def test_an_average_over_fewer_tasks_says_so_and_is_never_marked() -> None:
    runs = [result("whole", "aptos2019", 0.6), result("whole", "idrid", 0.6)]
    runs += [result("half", "aptos2019", 0.9)]
    runs += [result("other", "aptos2019", 0.5), result("other", "idrid", 0.5)]
    found = table(runs, PAPER)
    block = found.blocks[0]
    averages = {line.method: line.averages["auroc"] for line in block.lines}
    assert (averages["half"].tasks, averages["half"].of) == (1, 2)
    placed = block.marks(found.groups)
    assert placed["half", None, "auroc"] == ""
    assert placed["whole", None, "auroc"] == "best"
    assert placed["half", PAPER[0], "auroc"] == "best"  # in its own column it takes part
    assert found.missing == [("100 %", "half", "IDRiD")]


def test_mean_and_deviation_over_seeds_are_those_of_compare() -> None:
    values = [0.71, 0.75, 0.82]
    runs = [result("a", "idrid", value, seed=seed) for seed, value in enumerate(values)]
    cell = table(runs, PAPER).blocks[0].lines[0].cells[PAPER[1], "auroc"]
    mean, deviation = over_seeds(values)
    assert (cell.mean, cell.deviation) == (pytest.approx(mean), pytest.approx(deviation))
    assert cell.interval == (pytest.approx(mean - 0.1), pytest.approx(mean + 0.05))


def test_the_average_over_seeds_has_the_deviation_of_the_seeds_averages() -> None:
    values = {"aptos2019": (0.8, 0.9), "idrid": (0.6, 0.5)}  # averages 0.7 and 0.7
    runs = [
        result("a", name, value, seed=seed)
        for name, both in values.items()
        for seed, value in enumerate(both)
    ]
    average = table(runs, PAPER).blocks[0].lines[0].averages["auroc"]
    assert average.deviation == pytest.approx(0)
    low, high = average.interval or (0, 0)
    assert average.mean == pytest.approx(0.7)
    assert (0.7 - low, high - 0.7) == (
        pytest.approx(0.1 / 2**0.5), pytest.approx(0.05 / 2**0.5)
    )  # fmt: skip


def test_seeds_that_are_not_the_same_in_all_tasks_give_no_deviation_of_the_average() -> None:
    runs = [result("a", "aptos2019", 0.8, seed=seed) for seed in (0, 1)]
    runs += [result("a", "idrid", 0.6, seed=0)]
    average = table(runs, PAPER).blocks[0].lines[0].averages["auroc"]
    assert average.deviation is None
    assert average.mean == pytest.approx(0.7)


def test_an_undefined_value_is_a_dash_with_a_note_and_no_missing_run() -> None:
    runs = [result("a", "aptos2019", 0.8), result("a", "idrid", None)]
    found = table(runs, PAPER)
    cell = found.blocks[0].lines[0].cells[PAPER[1], "auroc"]
    assert percent(cell.mean) == "-"
    assert cell.notes == ["one class"]
    assert found.missing == []
    assert found.blocks[0].lines[0].averages["auroc"].tasks == 1


def test_shares_of_labels_are_blocks_from_few_to_many() -> None:
    runs = [result("a", "idrid", 0.8, fraction=share) for share in (1.0, 0.01, 0.1)]
    assert [block.name for block in table(runs, PAPER).blocks] == ["1 %", "10 %", "100 %"]


def test_labels_a_class_are_one_block_whatever_share_they_are() -> None:
    runs = [
        result("a", dataset, 0.8, fraction=share, protocol=f"{shots}-shot")
        for dataset, share, shots in (
            ("idrid", 0.1, 16),
            ("aptos2019", 0.02, 16),
            ("idrid", 0.01, 4),
        )
    ]
    assert [block.name for block in table(runs, PAPER).blocks] == ["4 a class", "16 a class"]


ROW = {
    "run": "a", "dataset": "idrid", "task": "grade", "protocol": "finetune", "fraction": 1.0,
    "seed": 0, "metric": "auroc", "value": 0.8, "n": 3, "low": 0.7, "high": 0.9,
}  # fmt: skip


def test_a_row_of_an_older_format_has_its_run_as_method() -> None:
    found, problems = results_of(Path("runs/a"), [ROW])
    assert (found[0].method, found[0].predictions, problems) == ("a", "", [])


def test_another_recipe_of_fine_tuning_is_another_method() -> None:
    rows = [ROW | {"method": "m", "recipe": recipe} for recipe in ("paper", "retfound")]
    found, _ = results_of(Path("runs/a"), rows)
    assert [run.method for run in found] == ["m", "m, retfound"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": "high"}, "value is 'high'"),
        ({"seed": None}, "seed is None"),
        ({"dataset": 7}, "dataset is 7"),
        ({"low": True}, "low is True"),
        ({"value": float("nan")}, "value is nan"),
    ],
)
def test_an_invalid_row_is_named_and_left_out(change: dict, said: str) -> None:
    found, problems = results_of(Path("runs/a"), [ROW, ROW | {"metric": "x"} | change, 3])
    assert len(found) == 1
    assert len(problems) == 2
    assert said in problems[0]
    assert "row 3: found int" in problems[1]


def test_cells_of_weights_that_knew_the_dataset_are_marked_and_named() -> None:
    runs = [result("flair", "aptos2019", 0.9, seen="FLAIR"), result("flair", "idrid", 0.8)]
    runs += [result("ours", "aptos2019", 0.8, seen=""), result("ours", "idrid", 0.7)]
    found = table(runs, PAPER)
    line = "flair: its weights (FLAIR) were trained on images of APTOS."
    assert found.trained_on == [line]
    text = markdown(found)
    assert "| 90.0\u2020" in text  # of both columns of the task, and of the average
    assert text.count("\u2020") == 2 + 2 + 1
    assert f"\n\u2020 {line}\n" in text
    code = latex(found, "Caption", "tab:x", lambda _: "runs/a")
    assert code.count(r"$^\dagger$") == 5
    notes = [
        row["note"] for row in csv.DictReader(io.StringIO(csv_table(found, lambda _: "runs/a")))
    ]
    assert sum("trained on images of this dataset" in note for note in notes) == 2


def test_counted_test_images_of_pretraining_stand_below_every_table() -> None:
    runs = [result("ours", "aptos2019", 0.9, seen="clinic", seen_images=7)]
    runs += [result("ours", "idrid", 0.8, seen="", seen_images=None, seen_note="not known: gone")]
    found = table(runs, PAPER)
    line = f"ours, APTOS: 7 of {runs[0].n} test images were in pre-training (clinic)."
    unknown = "Whether test images were in pre-training is not known: gone: ours, IDRiD."
    assert (found.trained_on, found.footnotes[:1]) == ([line], [unknown])
    text = markdown(found)
    assert f"\n\u2020 {line}\n\n{unknown}\n" in text
    assert "80.0\u2020" not in text
    code = latex(found, "Caption", "tab:x", lambda _: "runs/a")
    assert rf"\par\footnotesize $^\dagger${line}" in code
    assert rf"\par\footnotesize {unknown}" in code
    rows = list(csv.DictReader(io.StringIO(csv_table(found, lambda _: "runs/a"))))
    noted = {row["dataset"]: row["note"] for row in rows if row["dataset"]}
    assert noted["aptos2019"] == line.removeprefix("ours, APTOS: ").rstrip(".")
    assert noted["idrid"] == "whether test images were in pre-training is not known: gone"


def test_a_value_of_images_of_pretraining_is_never_the_best_nor_the_second() -> None:
    values = {"leaked": 0.99, "ours": 0.8, "theirs": 0.7, "last": 0.6}
    runs = [result(name, "idrid", value) for name, value in values.items()]
    runs[0] = result("leaked", "idrid", 0.99, seen="clinic", seen_images=1)
    runs += [result("leaked", "idrid", 0.98, seed=1)]  # one of its seeds is enough
    found = table(runs, PAPER[1:])
    placed = found.blocks[0].marks(found.groups)
    marked = [placed[name, PAPER[1], "auroc"] for name in values]
    assert marked == ["", "best", "second", ""]
    alone = table(runs[:2], PAPER[1:])  # against a value with a dagger nothing is the best
    assert {*alone.blocks[0].marks(alone.groups).values()} == {""}
    clean = [result(name, "aptos2019", value) for name, value in values.items()]
    both = table([*runs, *clean], PAPER)
    averaged = both.blocks[0].marks(both.groups)
    assert averaged["leaked", None, "auroc"] == ""
    assert averaged["ours", None, "auroc"] == "best"


def test_every_table_says_how_images_were_seen_and_that_it_is_not_known() -> None:
    runs = [result("ours", "idrid", 0.8, images_seen="224 px, ImageNet's colours")]
    assert markdown(table(runs, PAPER)).endswith("\n224 px, ImageNet's colours.\n")
    assert "Size and colours of the images: not stated" in markdown(
        table([result("ours", "idrid", 0.8)], PAPER)
    )


def test_where_nobody_knew_the_dataset_no_dagger_is_percent() -> None:
    assert "\u2020" not in markdown(table([result("ours", "idrid", 0.7)], PAPER))


def test_what_a_value_leaves_out_or_why_there_is_none_stands_below_the_table() -> None:
    runs = [result("a", "aptos2019", None), result("a", "idrid", 1.0)]
    runs[1].scores["auroc"] = Score(1.0, 1.0, 1.0, 50)  # type: ignore[index]
    text = markdown(table(runs, PAPER))
    assert "\nAPTOS: one class.\n" in text
    assert "\nIDRiD: an interval without width: all resamples give the same value.\n" in text

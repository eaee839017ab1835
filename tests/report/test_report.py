"""The report shows what the runs measured, links to them, and names what is missing or damaged."""

import csv
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards
from maskedclip.finetune.loop import finetune
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import read_rows, recomputed
from maskedclip.report.build import Report, report
from maskedclip.report.command import ReportConfig, read_report
from maskedclip.report.pages.tables import percent
from maskedclip.report.repeats import pretraining
from tests.colours import config_of, two_colours
from tests.report.pages.runs import Place, predicted, write_run, write_study

HOSTILE = '<script>alert("x")</script>'
PAPER_NAMES = {"idrid": "IDRiD", "retina": "Retina"}


class Study:
    """A report on a few runs, and where all of it is."""

    def __init__(self, root: Path) -> None:
        self.runs, self.out = root / "runs", root / "re port"
        write_study(self.runs, datasets=("idrid", "retina"))
        write_run(self.runs, Place("ours", "idrid", 1.0, 1), predicted("idrid", 5, 2.0, 1))
        self.written: Report = report([self.runs], ReportConfig(out=str(self.out)))

    def text(self, name: str) -> str:
        return (self.out / name).read_text(encoding="utf-8")

    def sheet(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(self.text(name).splitlines()))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attributes if k in ("href", "src", "action")]
        assert not [k for k, _ in attributes if k.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_all_files_are_written(study: Study) -> None:
    names = {path.name for path in study.out.iterdir()}
    tables = {f"table{n}.{kind}" for n in (1, 2) for kind in ("md", "tex", "csv")}
    (events,) = (name for name in names if "tfevents" in name)
    assert names == tables | {"figure2.png", "figure2.svg", "index.html", "runs", events}
    assert study.written.problems == []
    assert len(list((study.out / "runs").iterdir())) == 4 * 2 * 2 + 1


def test_tensorboard_shows_the_figure_and_the_table_of_the_report(study: Study) -> None:
    events = EventAccumulator(str(study.out)).Reload()
    (picture,) = events.Tensors("report/figure 2")
    width, height, png = picture.tensor_proto.string_val
    assert png == (study.out / "figure2.png").read_bytes()
    assert (int(width), int(height)) == Image.open(io.BytesIO(png)).size
    (table,) = events.Tensors("report/table 1")
    shown = table.tensor_proto.string_val[0].decode()
    best = re.search(r"\*\*([\d.]+)\*\*", shown)
    assert best is not None
    assert f"{best[1]}*" in study.written.text  # of which a terminal shows no Markdown
    assert not re.search(r"[|<\\]|\*\*", study.written.text)


def test_every_number_is_what_its_predictions_give_again(study: Study) -> None:
    rows = [row for row in study.sheet("table1.csv") if row["task"] != "average" and row["runs"]]
    assert len(rows) == 4 * 2 * 2 * 2  # methods, tasks, fractions, metrics
    for row in rows:
        again = []
        for run in row["runs"].split():
            directory = study.out / unquote(run)
            mine = [r for r in read_rows(directory) if r["metric"] == row["metric"]]
            assert len(mine) == 1
            again.append(recomputed(directory, mine[0]))
        assert float(row["mean"]) == pytest.approx(np.mean([s.value for s in again]), abs=1e-12)
        assert float(row["low"]) == pytest.approx(np.mean([s.low for s in again]), abs=1e-12)
        value = percent(float(row["mean"]))
        assert value in study.text("table1.md")
        assert value in study.text("table1.tex")
        assert value in study.text("index.html")


def test_tasks_of_the_paper_that_a_study_does_not_have_are_no_columns(study: Study) -> None:
    page = study.text("index.html")
    assert "Missing cells" not in page
    assert "2 tasks, 17 runs, 16 of 16 cells measured." in page
    (cells,) = re.findall(r"Over seeds 0 where others are over 0 1, [^:]*: ([^<]*)\.", page)
    assert len(cells.split("; ")) == 3  # the other methods of that task and share of labels
    assert "Over seeds 0 where others are over 0 1" in study.text("table1.md")
    assert "Average of 2 ROC" in study.text("table1.md")
    assert "Average of 2" in study.text("table1.tex")
    rows = study.sheet("table1.csv")
    assert {row["task"] for row in rows} == {*PAPER_NAMES.values(), "average"}
    assert {row["tasks"] for row in rows if row["task"] == "average"} == {"2 of 2"}


def test_a_cell_is_missing_where_another_method_of_the_same_labels_has_it(tmp_path: Path) -> None:
    places = [Place("a", "idrid"), Place("a", "retina"), Place("b", "idrid")]
    places += [Place("a", "idrid", 0.1), Place("b", "idrid", 0.1)]  # nobody has retina there
    for place in places:
        write_run(tmp_path / "r", place, predicted(place.dataset, 4, 1.0, 0))
    report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    page = (tmp_path / "index.html").read_text()
    assert "Missing cells: 1<" in page
    assert "5 of 6 cells measured" in page
    line = next(x for x in (tmp_path / "table1.md").read_text().splitlines() if "| b " in x)
    assert line.count("| - ") == 2
    averages = [row for row in csv.DictReader((tmp_path / "table1.csv").open())
                if row["task"] == "average" and row["method"] == "b"]  # fmt: skip
    assert {(row["tasks"], row["mark"]) for row in averages} == {("1 of 2", "")}


def test_predictions_of_one_class_are_said(tmp_path: Path) -> None:
    found = predicted("idrid", 5, 1.0, 0)
    probability_BY = np.tile([0.1, 0.1, 0.6, 0.1, 0.1], (len(found.keys), 1))
    run = write_run(
        tmp_path / "r", Place("flat", "idrid"), found._replace(probability_BY=probability_BY)
    )
    write_run(tmp_path / "r", Place("fine", "idrid"), found)
    written = report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    said = "all 60 test images are predicted as 2, which 20% of them are"
    assert written.text.count(said) == 1
    assert (tmp_path / "index.html").read_text().count(said) == 1
    pages = {path.name: path.read_text() for path in (tmp_path / "runs").iterdir()}
    assert [name for name, text in pages.items() if "images are predicted as 2" in text] == [
        next(name for name in pages if name.startswith("flat"))
    ]
    assert run.is_dir()


def test_the_best_is_bold_and_the_second_underlined(study: Study) -> None:
    row = next(text for text in study.text("table1.md").splitlines() if "| 10 % | ours" in text)
    assert row.count("[**") == 4
    second = next(text for text in study.text("table1.md").splitlines() if "10 % | bridge" in text)
    assert second.count("[<u>") == 4
    assert study.text("table1.tex").count(r"\textbf{") == 2 * 6


def test_differences_from_the_best_have_a_p_value(study: Study) -> None:
    rows = [row for row in study.sheet("table1.csv") if row["p"]]
    assert len(rows) == 3 * 2 * 2 * 2
    for row in rows:
        place = {name: row[name] for name in ("labels", "task", "metric")} | {"mark": "best"}
        best = [
            each["method"] for each in study.sheet("table1.csv") if place.items() <= each.items()
        ]
        assert row["best"] in best
        assert 0 < float(row["p"]) <= 1
        assert float(row["difference"]) < 0
    assert "p 0.0" in study.text("index.html")


def test_every_link_leads_somewhere(study: Study) -> None:
    for path in (study.out / "index.html", *sorted((study.out / "runs").iterdir())[:3]):
        links = [a for a in Page(path).addresses if not a.startswith("data:")]
        assert links
        for link in links:
            assert (path.parent / unquote(link)).exists(), link
    for link in re.findall(r"\]\(([^)]+)\)", study.text("table1.md")):
        assert (study.out / unquote(link) / "results.jsonl").is_file()


def test_every_cell_of_the_page_links_to_its_runs(study: Study) -> None:
    page = study.text("index.html")
    body = page[page.index("Table 1") : page.index("Table 2")]
    cells = re.findall(r"<td class=\"\"[^>]*>(.*?)</td>", body, flags=re.DOTALL)
    filled = [cell for cell in cells if cell != "-"]
    assert len(filled) == 4 * 2 * 2 * 2
    for cell in filled:
        assert cell.count("<a href=") == (2 if "seeds" in cell else 1)


def test_a_page_needs_nothing_from_elsewhere(study: Study) -> None:
    for path in study.out.rglob("*.html"):
        page = Page(path)
        assert not {"script", "link", "iframe", "object"} & set(page.tags)
        assert not [a for a in page.addresses if re.match(r"(?!data:image/)[a-z]+:|//", a)]


def test_table_2_has_the_papers_rows_with_their_parts(study: Study) -> None:
    text = study.text("table2.md").splitlines()
    lines = [line.split(" | ") for line in text if line.startswith("| ")][1:]
    assert [line[:4] for line in lines] == [
        ["| 10 %", "MAE+CLIP", "", ""],
        ["| 10 %", "+Bridge Transformer", "\u2713", ""],
        ["| 10 %", "MaskedCLIP", "\u2713", "\u2713"],
    ]
    assert study.text("table2.tex").count(r"\checkmark") == 3


def test_an_empty_table_2_says_what_is_missing(study: Study, tmp_path: Path) -> None:
    runs = [study.runs / "random-idrid-1-seed0", study.runs / "ours-idrid-1-seed0"]
    report(runs[:1], ReportConfig(out=str(tmp_path)))
    missing = "Not measured: MAE+CLIP, +Bridge Transformer, MaskedCLIP."
    for name in ("table2.md", "table2.tex"):
        assert missing in (tmp_path / name).read_text()
    assert "Table 2" not in (tmp_path / "index.html").read_text()  # no ablation was asked for
    report(runs, ReportConfig(out=str(tmp_path)))
    assert "Not measured: MAE+CLIP, +Bridge Transformer." in (tmp_path / "table2.md").read_text()


def test_the_same_runs_give_the_same_bytes(study: Study, tmp_path: Path) -> None:
    runs = [study.runs / f"ours-idrid-{share}-seed0" for share in ("0.1", "1")]
    for name in ("a", "b"):
        report(runs, ReportConfig(out=str(tmp_path / name), compare=False))
    # TensorBoard's has the time at which it was written
    files = [p for p in (tmp_path / "a").rglob("*.*") if p.is_file() and "tfevents" not in p.name]
    assert len(files) == 9 + 2
    before = sorted((tmp_path / "a").glob("*tfevents*"))
    report(runs, ReportConfig(out=str(tmp_path / "a"), compare=False))
    assert sorted((tmp_path / "a").glob("*tfevents*")) == before  # the same board is not rewritten
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_what_is_printed_is_table_1_without_links(study: Study) -> None:
    text = study.written.text
    assert "](" not in text
    head, *rows = [line for line in text.splitlines() if re.match(r"labels |\d+ % ", line)]
    column = head.index("method")
    assert len(rows) == 2 * 4
    assert all(row[column - 2 : column] == "  " and row[column] != " " for row in rows)


def test_every_file_of_a_table_says_its_protocol(study: Study) -> None:
    for name in ("table1.md", "table1.tex", "table2.md", "table2.tex"):
        assert "Protocol: finetune (fine-tuning). Best bold, second underlined." in study.text(name)
    assert study.written.text.startswith("Methods on downstream tasks, by the share of labels. Pro")
    assert {row["protocol"] for row in study.sheet("table1.csv")} == {"finetune"}
    assert "protocol finetune" in study.text("index.html")
    assert "Results by fine-tuning" in study.text("index.html")


def test_a_method_whose_test_images_were_in_pretraining_is_not_what_others_are_held_against(
    tmp_path: Path,
) -> None:
    for method, skill in (("leaked", 3.0), ("ours", 1.5), ("theirs", 0.5)):
        run = write_run(tmp_path / "r", Place(method, "idrid"), predicted("idrid", 5, skill, 0))
        seen = {"seen": "idrid", "seen_images": 9} if method == "leaked" else {"seen": ""}
        rows = [row | seen for row in read_rows(run)]
        (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    rows = [r for r in csv.DictReader((tmp_path / "table1.csv").open()) if r["dataset"] == "idrid"]
    assert {(row["method"], row["mark"], row["best"]) for row in rows} == {
        ("leaked", "", ""), ("ours", "best", ""), ("theirs", "second", "ours"),
    }  # fmt: skip
    for name in ("table1.md", "table1.tex"):
        text = (tmp_path / name).read_text()
        assert "second underlined, of values without a" in text


def test_intervals_stand_under_the_values_where_they_are_asked_for(
    study: Study, tmp_path: Path
) -> None:
    config = ReportConfig(out=str(tmp_path), intervals=True, compare=False, pictures=0)
    report([study.runs / "ours-idrid-0.1-seed0"], config)
    row = next(r for r in csv.DictReader((tmp_path / "table1.csv").open()) if r["mean"])
    between = f"{percent(float(row['low']))} to {percent(float(row['high']))}"
    assert f"<br>{between}" in (tmp_path / "table1.md").read_text()
    assert between.replace(" to ", "--") in (tmp_path / "table1.tex").read_text()


def test_a_run_is_counted_once_however_often_it_is_named(study: Study, tmp_path: Path) -> None:
    run = study.runs / "ours-idrid-0.1-seed0"
    again = run / ".." / run.name
    written = report([run, again, run], ReportConfig(out=str(tmp_path), compare=False))
    assert written.problems == []


def images_of(directory: Path) -> tuple[Predictions, list[str]]:
    """Return predictions on real shards, some of them wrong, and the class names."""
    dataset = Shards(directory)
    task = labelled(dataset, "disease")
    label_B = np.array([sample.label for sample in task.samples])
    probability_BY = np.full((len(label_B), len(task.classes)), 0.1)
    probability_BY[np.arange(len(label_B)), (label_B + (np.arange(len(label_B)) % 3 == 0)) % 2] += 1
    probability_BY /= probability_BY.sum(axis=1, keepdims=True)
    keys = [sample.key for sample in task.samples]
    return Predictions(keys, keys, label_B, probability_BY), list(task.classes)


def test_the_worst_errors_are_shown_as_pictures(phantoms: dict[str, Path], tmp_path: Path) -> None:
    found, classes = images_of(phantoms["heldout"])
    place = Place("a", "heldout", task="disease")
    write_run(tmp_path / "r", place, found, classes=classes, shards=phantoms["heldout"])
    report([tmp_path / "r"], ReportConfig(out=str(tmp_path), pictures=5))
    (page,) = (tmp_path / "runs").iterdir()
    pictures = [a for a in Page(page).addresses if a.startswith("data:image/jpeg;base64,")]
    assert len(pictures) == 5
    report([tmp_path / "r"], ReportConfig(out=str(tmp_path), pictures=0))
    assert "data:image/jpeg" not in page.read_text()


def test_a_picture_of_another_label_or_key_is_not_percent(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    found, classes = images_of(phantoms["heldout"])
    keys = [f"other{key}" if i % 2 else key for i, key in enumerate(found.keys)]
    turned = found._replace(keys=keys, label_B=(found.label_B + 1) % len(classes))
    place = Place("a", "heldout", task="disease")
    write_run(tmp_path / "r", place, turned, classes=classes, shards=phantoms["heldout"])
    report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    (page,) = (tmp_path / "runs").iterdir()
    assert "12 of 12 pictures cannot be had" in page.read_text()


def test_shards_that_are_gone_are_said_on_the_page(study: Study) -> None:
    page = study.text("runs/ours-idrid-diabetic_retinopathy-finetune-0.1-seed0.html")
    assert "No pictures: the shards cannot be read" in page
    assert "3: severe diabetic retinopathy" in page  # a grade in words


def test_hostile_names_are_shown_and_never_run(tmp_path: Path) -> None:
    found = predicted("idrid", 3, 0.5, 0)
    found = found._replace(keys=[f"{key}{HOSTILE}" for key in found.keys])
    classes = [HOSTILE, "=1+1", '" onmouseover="alert(1)']
    run = write_run(tmp_path / "r", Place("a", "b", task="c"), found, classes=classes)
    rows = [
        json.loads(line) | {"method": HOSTILE, "task": f"t{HOSTILE}", "dataset": f"../../{HOSTILE}"}
        for line in (run / "results.jsonl").read_text().splitlines()
    ]
    rows[0]["note"] = f'"{HOSTILE}'
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report([tmp_path / "r"], ReportConfig(out=str(tmp_path / "out")))
    pages = list((tmp_path / "out").rglob("*.html"))
    assert len(pages) == 2
    for path in pages:
        page = Page(path)
        assert "script" not in page.tags
        assert any(HOSTILE in words for words in page.words)
    assert "<script" not in (tmp_path / "out" / "table1.md").read_text()
    assert {path.parent.name for path in pages} == {"out", "runs"}


def test_text_that_a_spreadsheet_would_compute_is_quoted(tmp_path: Path) -> None:
    write_run(tmp_path / "r", Place("=1+1", "idrid"), predicted("idrid", 5, 1.0, 0))
    report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    assert "'=1+1" in (tmp_path / "table1.csv").read_text()


def test_damaged_files_are_named_and_the_rest_is_reported(tmp_path: Path) -> None:
    for number in range(5):
        found = predicted("idrid", 5, 1.0, number)
        write_run(tmp_path / "r", Place(f"m{number}", "idrid"), found)
    run = {number: tmp_path / "r" / f"m{number}-idrid-1-seed0" for number in range(5)}
    (run[0] / "results.jsonl").write_text("{")
    (predictions,) = (run[1] / "predictions").glob("*test.csv")
    predictions.write_text(predictions.read_text()[:200])
    text = (run[2] / "results.jsonl").read_text()
    (run[2] / "results.jsonl").write_text(
        re.sub(r'"value": 0\.\d+', '"value": 0.999', text, count=1)
    )
    text = (run[3] / "results.jsonl").read_text()
    (run[3] / "results.jsonl").write_text(text.replace('"predictions": "', '"predictions": "../'))
    written = report([tmp_path / "r"], ReportConfig(out=str(tmp_path / "out")))
    assert len(written.problems) == 4
    for number, said in enumerate(("not JSON", "a row is cut", "gives auroc", "not of this run")):
        line = next(line for line in written.problems if str(run[number]) in line)
        assert said in line
        assert "\n" not in line
        assert str(run[number]) in (tmp_path / "out" / "index.html").read_text()
    assert "m4" in written.text


def test_rows_of_an_older_format_are_shown_without_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", Place("m", "idrid"), predicted("idrid", 5, 1.0, 0))
    rows = read_rows(run)
    for row in rows:
        for name in ("method", "predictions", "shards", "note"):
            del row[name]
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = report([run], ReportConfig(out=str(tmp_path)))
    assert written.problems == []
    assert f"  {run.name}  " in written.text  # the method was the run
    assert "1 of an older format name no predictions" in (tmp_path / "index.html").read_text()
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_real_fine_tuning_is_reported(tmp_path: Path) -> None:
    two_colours(tmp_path / "colours", contrast=10)
    run = finetune(replace(config_of(tmp_path), epochs=2))
    written = report([run], ReportConfig(out=str(tmp_path / "out")))
    assert written.problems == []  # each value is what its predictions give
    (page,) = (tmp_path / "out" / "runs").iterdir()
    shown_pictures = [a for a in Page(page).addresses if a.startswith("data:image/jpeg")]
    assert 0 < len(shown_pictures) <= 12
    assert "cannot be had" not in page.read_text()


def test_two_runs_in_one_place_are_not_averaged(tmp_path: Path) -> None:
    for root in ("a", "b"):
        found = predicted("idrid", 5, 1.0, ord(root))
        write_run(tmp_path / "r" / root, Place("m", "idrid"), found)
    written = report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    assert len(written.problems) == 1
    assert "is there twice" in written.problems[0]
    first = read_rows(tmp_path / "r" / "a" / "m-idrid-1-seed0")[0]["value"]
    assert f" {percent(first)} " in written.text


def test_other_test_images_are_not_compared_and_said(tmp_path: Path) -> None:
    for method, images in (("a", 60), ("b", 60), ("other", 70)):
        found = predicted("idrid", 5, 1.0, ord(method[0]), images=images)
        write_run(tmp_path / "r", Place(method, "idrid"), found)
    written = report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    assert len(written.problems) == 1
    assert "other measured on other test images than a, b" in written.problems[0]
    rows = list(csv.DictReader((tmp_path / "table1.csv").open()))
    assert {row["method"] for row in rows if row["p"]} < {"a", "b"}


def test_the_command_prints_table_and_page_and_fails_where_something_is_wrong(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / study.runs.name / "ours-idrid-1-seed0"
    shutil.copytree(study.runs / run.name, run)
    words = ["report", str(tmp_path / study.runs.name), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.delitem(sys.modules, "maskedclip.report")  # runpy warns of one imported before
    for damage, code in ("", 0), ("{", 1):
        results = run / "results.jsonl"
        other = run.with_name("other")
        other.mkdir(exist_ok=True)
        (other / "results.jsonl").write_text(damage)
        with pytest.raises(SystemExit) as stopped:
            runpy.run_module("maskedclip.report", run_name="__main__")
        assert stopped.value.code == code
        said = capsys.readouterr()
        assert re.search(r"^labels +method  ", said.out, re.MULTILINE)
        assert str(tmp_path / "out" / "index.html") in said.out
        assert (str(other) in said.err) == bool(damage)
        assert results.is_file()


def test_the_next_commands_of_a_report_name_each_other_protocol_once_and_then_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for protocol in ("knn", "logistic", "linear"):
        write_run(
            tmp_path / "r", Place("a", "idrid", protocol=protocol), predicted("idrid", 5, 1.0, 0)
        )
    asked, seen = [f"python -m maskedclip.report {tmp_path / 'r'} --out {tmp_path / 'o'}"], []
    while asked:
        monkeypatch.setattr(sys, "argv", shlex.split(asked.pop(0))[2:])
        monkeypatch.delitem(sys.modules, "maskedclip.report", raising=False)
        with pytest.raises(SystemExit):
            runpy.run_module("maskedclip.report", run_name="__main__")
        said = capsys.readouterr().out
        seen.append(re.findall(r"Protocol: (\w+)", said)[0])
        asked += re.findall(r"^(?:next:|   or:) (.*)$", said, re.MULTILINE)
        assert len(seen) < 9
    assert sorted(seen) == ["knn", "linear", "logistic"]


def test_an_undefined_value_is_explained(tmp_path: Path) -> None:
    found = predicted("idrid", 5, 1.0, 0)
    place = Place("a", "idrid")
    write_run(tmp_path / "r", place, found._replace(label_B=np.zeros_like(found.label_B)))
    written = report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    assert written.problems == []
    assert "all 60 test images are of one class" in (tmp_path / "index.html").read_text()
    (page,) = (tmp_path / "runs").iterdir()
    assert "there is no curve" in page.read_text()


def test_other_protocols_are_named_and_can_be_percent(tmp_path: Path) -> None:
    for protocol in ("finetune", "16-shot", "zeroshot"):
        place = Place("a", "idrid", 0.0 if protocol == "zeroshot" else 0.1, protocol=protocol)
        write_run(tmp_path / "r", place, predicted("idrid", 5, 1.0, 0))
    report([tmp_path / "r"], ReportConfig(out=str(tmp_path)))
    assert "16-shot (1), zeroshot (1)" in (tmp_path / "index.html").read_text()
    for protocol, labels in (("16-shot", "16 a class"), ("zeroshot", "none")):
        written = report([tmp_path / "r"], ReportConfig(out=str(tmp_path / "o"), protocol=protocol))
        assert f"\n{labels}  " in written.text
    with pytest.raises(ValueError, match=r"nothing measured by '16shot'.*--protocol=16-shot"):
        report([tmp_path / "r"], ReportConfig(out=str(tmp_path), protocol="16shot"))
    (tmp_path / "r" / "a-idrid-0.1-seed0" / "results.jsonl").unlink()
    written = report([tmp_path / "r"], ReportConfig(out=str(tmp_path / "p")))
    assert "\nnone " in written.text  # nothing was fine-tuned: what there is


def test_weights_lead_to_their_pretraining_from_any_place(tmp_path: Path) -> None:
    pretrained = tmp_path / "runs" / "ours"
    pretrained.mkdir(parents=True)
    (pretrained / "config.json").write_text('{"model": {}, "loss": {}}')
    (pretrained / "encoder.safetensors").touch()
    tuned = tmp_path / "runs" / "study" / "tuned"
    tuned.mkdir(parents=True)
    for weights in ("runs/ours", "runs/ours/encoder.safetensors", str(pretrained)):
        (tuned / "config.json").write_text(json.dumps({"weights": weights}))
        found = pretraining(tuned)
        assert found is not None
        assert found[0] == pretrained.resolve()
    for weights in ("random", "runs/gone"):
        (tuned / "config.json").write_text(json.dumps({"weights": weights}))
        assert pretraining(tuned) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no run given"),
        (["RUNS", "--out=x", "--protocoll=knn"], "did you mean --protocol?"),
        (["nothing", "--out=x"], "nothing: no such directory"),
        (["RUNS", "--out=x", "--pictures=-1"], "is negative"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    words = [str(tmp_path) if word == "RUNS" else word for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        read_report("", words)
    assert stopped.value.code == 2
    found = capsys.readouterr().err
    assert said in found
    assert found.count("\n") == 1


def test_a_switch_does_not_swallow_the_run_after_it(tmp_path: Path) -> None:
    runs, config = read_report("", ["--intervals", str(tmp_path), "--out", "x", str(tmp_path)])
    assert (runs, config.intervals, config.out) == ([tmp_path, tmp_path], True, "x")


def test_a_folder_without_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no results.jsonl; fine-tune or evaluate first"):
        report([tmp_path], ReportConfig(out=str(tmp_path)))


def test_older_rows_of_weights_that_knew_the_dataset_are_marked_by_their_name(
    tmp_path: Path,
) -> None:
    for method in ("flair_resnet", "RETFound_mae_natureCFP"):
        write_run(tmp_path / "runs", Place(method, "idrid"), predicted("idrid", 5, 1.0, 0))
    report([tmp_path / "runs"], ReportConfig(out=str(tmp_path / "out")))
    page = (tmp_path / "out" / "index.html").read_text()
    assert "flair_resnet: its weights (flair_resnet) were trained on images of IDRiD." in page
    # ROC and PRC of the task; the footnote; six metrics among all results
    assert page.count("&dagger;") == 2 + 1 + 6

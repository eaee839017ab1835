"""The curves of a run are those of its metrics.jsonl, in one file, at any time."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskedclip.config import override, save
from maskedclip.recipes import RECIPES
from maskedclip.report.build import report
from maskedclip.report.command import ReportConfig, read_report
from maskedclip.report.run_curves import Points, curves_of, thinned
from tests.chromium import needs_chromium
from tests.report.pages.runs import Place, predicted, write_run
from tools.benches.browser import Browser

HOSTILE = "a run </script><script>alert(1)</script> <b>".replace("/", "\u2215")


def write_rows(run: Path, rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return run


def pretraining(run: Path, steps: int = 200, every: int = 20) -> Path:
    rows: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        row = {"step": step, "epoch": step / 50, "loss": 4 - step / steps, "data_wait": 0.25}
        row |= {"grad_norm": 2.0, "grad_norm/encoder": 1.5, "grad_norm/bridge": 0.5}
        row["loss_clip_excess"] = None if step == every else 1.0
        rows.append(row)
    rows[-1] |= {"alarms": ["loss not falling: </script> lower the learning rate"]}
    return write_rows(run, rows, {"name": run.name, "optim": {"steps": 400}})


def finetuning(run: Path) -> Path:
    rows = [{"step": 9 * e, "epoch": e, "loss": 2 / e, "val_auroc": 0.6} for e in range(1, 5)]
    return write_rows(run, rows, {"weights": "random", "dataset": "x", "epochs": 50})


def drawn(page: Path) -> dict[str, Any]:
    """Return what the page's script draws."""
    text = page.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="curves">(.*?)</script>', text)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def figures(page: Path) -> dict[str, Any]:
    return {one["title"]: one for one in drawn(page)["figures"]}


def test_a_run_without_results_has_a_page_of_its_curves(tmp_path: Path) -> None:
    run = pretraining(tmp_path / "going on")
    runs, config = read_report("", [str(run)])
    written = report(runs, config)
    assert written.page == run / "report" / "curves.html" == written.curves
    assert written.text == "going on: pre-training, step 200 of 400\n"
    loss = figures(written.page)["loss"]
    assert drawn(written.page)["steps"][loss["lines"][0]["at"]] == list(range(20, 201, 20))
    assert loss["lines"][0]["value"] == pytest.approx([4 - s / 200 for s in range(20, 201, 20)])


def test_results_and_curves_stand_beside_each_other(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", Place("ours", "idrid"), predicted("idrid", 5, 1.0, 0))
    finetuning(run)
    written = report([run], ReportConfig(out=str(tmp_path / "out")))
    assert written.curves == tmp_path / "out" / "curves.html"
    assert 'href="curves.html"' in written.page.read_text()
    assert 'href="index.html"' in written.curves.read_text()
    assert "Macro AUROC on validation images" in written.curves.read_text()


def test_shares_are_drawn_in_per_cent_and_parts_in_one_figure(tmp_path: Path) -> None:
    page = report([pretraining(tmp_path / "r")], ReportConfig(out=str(tmp_path / "o"))).page
    wait, norm = figures(page)["data_wait"], figures(page)["grad_norm"]
    assert (wait["unit"], set(wait["lines"][0]["value"])) == ("% of the time", {25.0})
    assert {line["part"]: line["value"][0] for line in norm["lines"]} == {
        "all": 2.0, "encoder": 1.5, "bridge": 0.5,
    }  # fmt: skip
    excess = figures(page)["loss_clip_excess"]["lines"][0]
    assert len(excess["value"]) == 9  # null is no point


def test_a_module_and_a_term_have_one_colour_in_all_figures(tmp_path: Path) -> None:
    shares = {f"gradient_share/{term}/encoder": 0.5 for term in ("mfd", "mim")}
    modules = ("unheard_of", "bridge", "encoder")
    row = {"step": 1, "loss_mim": 1.0, "loss_clip": 1.0, "loss_mfd": 1.0, "grad_norm": 1.0} | shares
    row |= {f"{name}/{module}": 0.1 for name in ("update_ratio", "grad_norm") for module in modules}
    times = {f"goodput/{kind}": 0.5 for kind in ("productive", "waiting")}
    page = report(
        [write_rows(tmp_path / "r", [row | times], {})], ReportConfig(out=str(tmp_path / "o"))
    ).page
    colours: dict[str, set[int]] = {}
    for one in figures(page).values():
        own = [line["colour"] for line in one["lines"]]
        assert len(set(own)) == len(own), "no two lines of a figure look alike"
        for line in one["lines"]:
            colours.setdefault(line["part"].removeprefix("loss_"), set()).add(line["colour"])
    assert {"all", "encoder", "bridge", "unheard_of", "mim", "mfd", "productive"} <= set(colours)
    assert all(len(found) == 1 for found in colours.values()), colours
    assert (colours["encoder"], colours["bridge"], colours["mfd"]) == ({1}, {2}, {2})


def test_of_several_runs_each_key_has_a_figure_with_a_line_a_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pretraining(tmp_path / "runs" / name)
        finetuning(tmp_path / "runs" / f"{name}-fine")
    page = report([tmp_path / "runs"], ReportConfig(out=str(tmp_path / "o"))).page
    every = drawn(page)["figures"]
    titles = [one["title"] for one in every]
    assert titles.count("loss") == 2  # of pre-training and of fine-tuning: other numbers
    names = drawn(page)["runs"]
    encoder = next(one for one in every if one["title"] == "grad_norm encoder")
    assert [names[line["run"]] for line in encoder["lines"]] == ["a", "b"]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for seed in ("seed0", "seed1"):
        pretraining(tmp_path / "runs" / seed / "lr=1")
    assert [one.name for one in curves_of([tmp_path])] == ["seed0/lr=1", "seed1/lr=1"]


def test_damaged_rows_are_said_and_half_a_last_one_is_not(tmp_path: Path) -> None:
    run = pretraining(tmp_path / "r")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('no row\n[1]\n{"step": 220, "loss": NaN}\n{"step": 240, "lo')
    (one,) = curves_of([run])
    assert one.points["loss"].step_K[-1] == 200
    assert list(one.faults) == [
        "metrics.jsonl: line 11 is no row; it is left out",
        "metrics.jsonl: line 12 is no row; it is left out",
        "loss is not finite in 1 row, first at step 220",
    ]
    page = report([run], ReportConfig(out=str(tmp_path / "o"))).page
    assert "loss is not finite in 1 row" in page.read_text()


def test_of_a_step_that_was_done_again_the_later_row_counts(tmp_path: Path) -> None:
    rows = [{"step": 20, "loss": 3.0}, {"step": 40, "loss": 9.0}, {"step": 40, "loss": 2.0}]
    (one,) = curves_of([write_rows(tmp_path / "r", rows, {})])
    assert one.points["loss"].value_K.tolist() == [3.0, 2.0]


def test_an_alarm_that_goes_on_is_said_once(tmp_path: Path) -> None:
    alarms: list[Any] = [["spike"], ["spike", "collapse"], [], {"spike": "a spike; do this"}]
    rows = [{"step": n, "loss": 1.0, "alarms": one} for n, one in enumerate(alarms, 1)]
    (one,) = curves_of([write_rows(tmp_path / "r", rows, {})])
    assert list(one.alarms) == [(1, "spike"), (2, "collapse"), (4, "a spike; do this")]


def test_a_reference_is_drawn_beside_the_same_keys(tmp_path: Path) -> None:
    run, other = pretraining(tmp_path / "r"), pretraining(tmp_path / "other", steps=400)
    page = report([run], ReportConfig(out=str(tmp_path / "o"), reference=str(other))).page
    own, reference = figures(page)["loss"]["lines"]
    assert (own.get("reference"), reference["reference"]) == (None, True)
    assert drawn(page)["steps"][reference["at"]][-1] == 400
    assert len(drawn(page)["runs"]) == 1
    with pytest.raises(ValueError, match=r"--reference .*nowhere: No such file"):
        report([run], ReportConfig(out=str(tmp_path / "o"), reference=str(tmp_path / "nowhere")))


def test_runs_of_a_measured_recipe_have_its_curve_beside_theirs(tmp_path: Path) -> None:
    config = override(RECIPES["maskedclip_laptop"](), {"seed": 3})
    run = pretraining(tmp_path / "r")
    save(config, run / "config.json")
    loss = figures(report([run], ReportConfig(out=str(tmp_path / "o"))).page)["loss"]
    assert loss["lines"][1]["value"][0] == 4.715  # the first row of reference_curves
    save(override(config, {"loss.clip": 0.5}), run / "config.json")
    loss = figures(report([run], ReportConfig(out=str(tmp_path / "o"))).page)["loss"]
    assert len(loss["lines"]) == 1


def test_thinned_points_keep_means_extremes_and_the_last_step() -> None:
    step_K = np.arange(1, 1004)
    value_K = np.sin(step_K / 50)
    value_K[700] = 80.0
    points = thinned(Points(step_K, value_K), 100)
    assert points.rows == 11
    assert len(points.step_K) == math.ceil(1003 / 11) <= 100
    assert points.step_K[-1] == 1003
    assert points.high_K is not None
    assert points.low_K is not None
    assert points.high_K.max() == 80.0
    assert points.low_K.min() == value_K.min()
    assert points.value_K[0] == pytest.approx(value_K[:11].mean())
    assert points.value_K[-1] == pytest.approx(value_K[1001:].mean())
    assert thinned(Points(step_K, value_K), 1003).low_K is None


def test_a_page_of_long_runs_stays_below_two_megabytes(tmp_path: Path) -> None:
    keys = [f"gradient_share/clip/blocks {i}" for i in range(150)]
    noise = np.random.default_rng(0)
    for number in range(30):
        rows = [{"step": s, **dict.fromkeys(keys, float(noise.random()))} for s in range(1, 101)]
        write_rows(tmp_path / "runs" / f"r{number:02}", rows, {})
    page = report([tmp_path / "runs"], ReportConfig(out=str(tmp_path / "o"))).page
    assert page.stat().st_size < 2_000_000
    assert "curves of 19 of 30 runs are not drawn" in page.read_text()
    one = report([tmp_path / "runs" / "r29"], ReportConfig(out=str(tmp_path / "1"))).page
    assert len(drawn(one)["figures"]) == 150


def test_a_grid_keeps_its_own_report(tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text("{}")
    assert read_report("", [str(tmp_path)])[1].out == str(tmp_path / "report-now")
    assert read_report("", [str(tmp_path), str(tmp_path)])[1].out == "report"


POINT_AT = """
for (const plot of plots) {
  const box = plot.getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + 48, clientY: box.top }));
}
"""


@needs_chromium
@pytest.mark.parametrize(("dark", "width"), [(False, 1300), (True, 500)])
def test_a_browser_draws_the_curves_without_a_complaint(
    tmp_path: Path, dark: bool, width: int
) -> None:
    for name in (HOSTILE, "other"):
        pretraining(tmp_path / "runs" / name)
        finetuning(tmp_path / "runs" / f"{name}-fine")
    page = report([tmp_path / "runs"], ReportConfig(out=str(tmp_path / "o"))).page
    with Browser(width, 1500, dark=dark) as browser:
        browser.open(page.resolve().as_uri())
        browser.wait_for("document.querySelectorAll('svg[role]').length >= 3")  # near the screen
        browser.evaluate(POINT_AT)
        document = browser.evaluate("document.documentElement.outerHTML")
        assert browser.errors == []
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in document
    assert '<div class="hover" role="status"' in document
    assert "step 20</div>" in document
    assert ">3.9</b>" in document  # the loss at step 20

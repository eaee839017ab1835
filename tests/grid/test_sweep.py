"""A sweep pre-trains every point with every seed, measures each, and puts them into one table."""

import csv
import html
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskedclip.config import Config, LaunchConfig
from maskedclip.data.storage.shards import ShardWriter
from maskedclip.finetune.command import EvaluateConfig
from maskedclip.finetune.recipes import finetune_recipe
from maskedclip.grid.cells import not_measured
from maskedclip.grid.manifest import REPORT, cell_of, finished, read, run_of, write
from maskedclip.grid.slurm_arrays import run_cell
from maskedclip.grid.start import start, sweep_grid
from maskedclip.grid.sweep_command import Sweep, SweepConfig, points, read_sweep
from maskedclip.metrics.results import read_rows
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.slurm import main
from tests.kinds_of_tasks import write_ages, write_findings


def test_a_point_is_every_combination_and_is_named_after_what_differs() -> None:
    named = points(["demo"], "", {"optim.steps": "7"}, ["loss.clip=0.01,0.1", "optim.lr=1e-4"])
    assert list(named) == ["clip=0.01,lr=1e-4", "clip=0.1,lr=1e-4"]
    one = named["clip=0.1,lr=1e-4"]
    assert (one.loss.clip, one.optim.lr, one.optim.steps) == (0.1, 1e-4, 7)
    assert one.name == "clip=0.1,lr=1e-4"
    # a list has semicolons between its values, and paths are named by their last part
    named = points(["demo"], "", {}, ["data.paired=shards/a,shards/b;c", "data.crop_area=0.2,1"])
    assert list(named) == ["paired=a+b,crop_area=0.2+1", "paired=c,crop_area=0.2+1"]
    assert named["paired=a+b,crop_area=0.2+1"].data.paired == ("shards/a", "shards/b")
    # the same last part twice: whole names
    named = points(["dinov2"], "", {}, ["dino.mask_ratio=0.1,0.5", "model.mask_ratio=0.5"])
    assert list(named) == ["dino.mask_ratio=0.1+0.5,model.mask_ratio=0.5"]


def test_several_recipes_keep_what_they_turn_off_and_a_swept_field_is_set() -> None:
    named = points(["mae", "maskedclip"], "demo", {"loss.mfd": "2"}, ["optim.steps=5,9"])
    assert list(named) == [
        "mae,steps=5", "mae,steps=9", "maskedclip,steps=5", "maskedclip,steps=9",
    ]  # fmt: skip
    assert {name: config.loss.mfd for name, config in named.items() if "=5" in name} == {
        "mae,steps=5": 0.0, "maskedclip,steps=5": 2.0,
    }  # fmt: skip
    assert {config.model.size for config in named.values()} == {"micro"}
    assert points(["mae", "clip"], "demo", {}, ["loss.mfd=1"])["mae,mfd=1"].loss.mfd == 1.0
    assert list(points(["demo"], "", {}, [])) == ["demo"]


def test_the_command_line_is_checked_before_anything_is_touched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, answer in (
        ([], "no recipe given"),
        (["dmo"], "did you mean demo?"),
        (["demo,dmo"], "did you mean demo?"),
        (["demo", "mae"], "several recipes with commas"),
        (["demo", "--base=dmo"], "did you mean demo?"),
        (["demo", "--sweep=loss.clp=1"], "did you mean loss.clip?"),
        (["demo", "--sweep=loss.clip"], "write --sweep 'loss.clip=VALUE,VALUE'"),
        (["demo", "--sweep=loss.clip=a"], "loss.clip: 'a' is not a number"),
        (["demo", "--sweep=loss.clip=1,1"], "1 and 1 are one value"),
        (["demo", "--sweep=loss.clip=0.1,1,0.10"], "0.1 and 0.10 are one value; name each"),
        (["demo", "--sweep=optim.steps=1e3,1000"], "1e3 and 1000 are one value"),
        (["demo", "--sweep=data.crop_area=0.2,1;.2,1.0"], "0.2,1 and .2,1.0 are one value"),
        (["demo", "--sweep=init_from=a/w,b/w"], "two points would be called init_from=w"),
        (["demo", "--sweep=loss.clip=1", "--sweep=loss.clip=2"], "is swept twice"),
        (["demo", "--sweep=seed=1,2"], "use --seeds"),
        (["demo", "--sweep=data.paired="], "write --sweep 'data.paired=DIR,DIR;DIR'"),
        (["demo", "--protocols=logistc"], "did you mean logistic?"),
        (["demo", "--protocols=transfer"], "use some of"),
        (["demo", "--finetune_hours=0.001"], "finetune_hours 0.001: SLURM counts whole minutes"),
        (["mae"], "no dataset given"),
        (["demo", "--seeds=0"], "at least 1"),
        (["demo", "--finetune.seed=1"], "unknown flag --finetune.seed"),
        (["demo", "--name=a/b"], "write a plain folder name"),
    ):
        with pytest.raises(SystemExit) as stopped:
            read_sweep("", arguments)
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert answer in said, arguments
        assert said.count("\n") == 1


def a_sweep(small: Config, heldout: Path, out: Path, **changes: object) -> Sweep:
    systems = {
        f"clip={weight}": replace(
            small, name=f"clip={weight}", loss=replace(small.loss, clip=weight)
        )
        for weight in (0.1, 1.0)
    }
    config = SweepConfig(
        seeds=2, datasets=(str(heldout),), task="disease", protocols=("knn", "logistic"),
        out=str(out), fractions=(0.5,),
    )  # fmt: skip
    evaluation = EvaluateConfig(
        datasets=config.datasets, task="disease", protocols=config.protocols, fractions=(0.5,)
    )
    config = replace(config, **changes)
    launch = LaunchConfig(gpus=0, cluster="local", dry_run=True)
    tuning = replace(finetune_recipe("paper"), image_size=32)
    return Sweep(config, launch, systems, tuning, evaluation)


def test_each_seed_is_one_repeat_from_pre_training_to_test_and_its_report_comes_last(
    small: Config, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    asked = a_sweep(small, phantoms["heldout"], tmp_path, protocols=("knn", "logistic", "finetune"))
    grid, costs = sweep_grid(asked)
    assert len(costs) == 4
    assert not grid.directory.exists()
    runs = {cell.name: run_of(grid, cell).relative_to(grid.directory) for cell in grid.cells}
    assert str(runs["clip=1.0-seed1"]) == "runs/seed1/clip=1.0"
    assert runs["clip=1.0-seed1-evaluate"] == runs["clip=1.0-seed1"]
    assert cell_of(grid, "clip=1.0-seed1").config["seed"] == 1
    assert cell_of(grid, "clip=1.0-seed1-evaluate").config["seed"] == 1
    tuned = cell_of(grid, "clip=1.0-heldout-disease-0.5-seed1")
    assert (tuned.config["seed"], tuned.needs) == (1, ("clip=1.0-seed1",))
    assert [cell.name for cell in grid.cells if cell.stage == "report"] == [
        "report", "report-knn", "report-logistic",
    ]  # fmt: skip
    assert len(grid.cells) == 4 * 3 + 3


def test_a_grid_takes_a_point_whose_value_is_spelt_otherwise_for_the_cell_that_it_has(
    small: Config, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    asked = a_sweep(small, phantoms["heldout"], tmp_path)._replace(swept=("loss.clip",))
    write(sweep_grid(asked)[0])
    two = replace(small, loss=replace(small.loss, clip=2.0))
    spelt = {"clip=0.10": asked.systems["clip=0.1"], "clip=2": two}
    grid, _ = sweep_grid(asked._replace(systems=spelt))
    assert {cell.config["name"] for cell in grid.cells if cell.stage == "pretrain"} == {
        "clip=0.1", "clip=1.0", "clip=2",
    }  # fmt: skip


def test_a_later_seed_of_a_point_with_another_field_is_refused(
    small: Config, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    asked = a_sweep(small, phantoms["heldout"], tmp_path)
    write(sweep_grid(asked)[0])
    later = {name: replace(own, seed=2) for name, own in asked.systems.items()}
    assert sweep_grid(asked._replace(systems=later))[0]
    longer = {name: replace(own, optim=replace(own.optim, steps=9)) for name, own in later.items()}
    with pytest.raises(
        ValueError, match=r"-seed0 has another optim\.steps than clip=.*-seed2 would"
    ):
        sweep_grid(asked._replace(systems=longer))


def test_zero_shot_alone_leaves_a_point_without_text_unmeasured_and_not_by_other_protocols(
    small: Config, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    asked = a_sweep(small, phantoms["heldout"], tmp_path, protocols=("zeroshot",), seeds=1)
    no_text = replace(small, name="mae", loss=replace(small.loss, clip=0.0, mfd=0.0))
    asked = measured_by(
        asked._replace(systems=asked.systems | {"mae": no_text}), ("zeroshot",), (), ""
    )
    grid, _ = sweep_grid(asked)
    assert [cell.needs for cell in grid.cells if cell.stage == "evaluate"] == [
        ("clip=0.1-seed0",), ("clip=1.0-seed0",),
    ]  # fmt: skip


def test_what_its_protocols_cannot_score_is_refused_before_any_training(
    small: Config, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    heldout, ages = phantoms["heldout"], write_ages(tmp_path / "ages")
    asked = measured_by(a_sweep(small, ages, tmp_path, task="age"), ("linear",), (), "")
    with pytest.raises(ValueError, match=r"protocols linear: age of .* is a number"):
        sweep_grid(asked)
    copy = shutil.copytree(heldout, tmp_path / "elsewhere")
    asked = a_sweep(small, heldout, tmp_path, datasets=(str(heldout), str(copy)))
    with pytest.raises(ValueError, match=r"--datasets: .* are both called heldout"):
        sweep_grid(asked)


def test_shots_alone_of_a_number_are_refused_before_any_training(
    small: Config, tmp_path: Path
) -> None:
    asked = a_sweep(small, write_ages(tmp_path / "ages"), tmp_path, task="age")
    with pytest.raises(ValueError, match=r"protocols 5-shot: age of .* is a number"):
        sweep_grid(measured_by(asked, (), (5,), ""))


def test_labels_that_cannot_be_divided_are_refused_before_any_training(
    small: Config, tmp_path: Path
) -> None:
    image = encode(np.full((40, 40, 3), 90, np.uint8), 90)
    with ShardWriter(tmp_path / "all_test", "all_test") as writer:
        for i in range(12):
            writer.add(f"s{i}", image, {"labels": {"disease": "ab"[i % 2]}, "split": "test"})
    for protocols in (("knn",), ("finetune",)):
        asked = a_sweep(small, tmp_path / "all_test", tmp_path, protocols=protocols)
        with pytest.raises(ValueError, match=r"all_test: task disease: .* left for train"):
            sweep_grid(asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "rnad-m9"}, "augmentation 'rnad-m9': timm does not know it"),
        ({"image_size": 40}, "image_size 40 is not a multiple of 16, the patch; use 32"),
        ({"classes_order": ("a", "b")}, "classes_order a,b has not age related macular"),
        ({"split": "no.csv"}, r"no\.csv: no such file"),
    ],
)
def test_what_every_fine_tuning_would_refuse_is_refused_before_any_pre_training(
    changes: dict[str, object], message: str,
    small: Config, phantoms: dict[str, Path], tmp_path: Path,
) -> None:  # fmt: skip
    asked = a_sweep(small, phantoms["heldout"], tmp_path, protocols=("finetune",))
    sweep_grid(asked)
    with pytest.raises(ValueError, match=f"fine-tuning on .*heldout: .*{message}"):
        sweep_grid(asked._replace(finetuning=replace(asked.finetuning, **changes)))


def test_a_balance_of_several_labels_an_image_is_refused_before_any_pre_training(
    small: Config, tmp_path: Path
) -> None:
    findings = write_findings(tmp_path / "findings")
    asked = a_sweep(small, findings, tmp_path, task="findings", protocols=("finetune",))
    with pytest.raises(ValueError, match="balance sampling: findings has not one class an image"):
        sweep_grid(asked._replace(finetuning=replace(asked.finetuning, balance="sampling")))


def test_points_that_an_added_protocol_does_not_measure_are_named_with_the_command_that_adds_them(
    small: Config, phantoms: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = a_sweep(small, phantoms["heldout"], tmp_path, protocols=("knn", "zeroshot"), seeds=1)
    first = first._replace(swept=("loss.clip",))
    first = measured_by(
        first, ("knn", "zeroshot"), (), "python submit_sweep.py demo --protocols knn --seeds=1"
    )
    before, _ = sweep_grid(first)
    assert not_measured(before) == []
    write(before)
    two = {"clip=0": replace(small, name="clip=0", loss=replace(small.loss, clip=0.0))}
    more = measured_by(first._replace(systems=two), ("knn", "linear"), (8,), "python the_second")
    grid, costs = sweep_grid(more)
    (line,) = not_measured(grid)
    assert line == (
        "not measured by linear, 8-shot: clip=0.1-seed0, clip=1.0-seed0; to add them: python "
        "submit_sweep.py demo --seeds=1 --protocols=knn,zeroshot,linear --shots=8"
    )
    assert not_measured(grid, "linear") == [line]
    assert not_measured(grid, "knn") == []
    assert not_measured(grid, "zeroshot") == []  # clip=0 reads no text
    (without,) = not_measured(grid._replace(commands={}))  # of an earlier version
    assert without.endswith(
        "to add them: give the command that began this again with "
        "--protocols=knn,zeroshot,linear --shots=8"
    )
    with caplog.at_level(logging.WARNING):
        start(grid, costs)
    assert line in caplog.messages
    write(grid)
    assert read(grid.directory) == read(grid.directory)._replace(commands=grid.commands)
    run_cell(grid, cell_of(grid, "report-linear"))  # nothing is measured yet
    assert line in html.unescape((grid.directory / "report-linear" / "index.html").read_text())
    run_cell(grid, cell_of(grid, "report"))
    assert "not measured by" not in (grid.directory / "report" / "index.html").read_text()
    every = ("knn", "zeroshot", "linear")  # as the line says
    write(sweep_grid(measured_by(first, every, (8,), "python the_first"))[0])
    assert not_measured(read(grid.directory)) == []


def measured_by(
    asked: Sweep, protocols: Sequence[str], shots: Sequence[int], command: str
) -> Sweep:
    evaluation = replace(asked.evaluation, protocols=tuple(protocols), shots=tuple(shots))
    return asked._replace(evaluation=evaluation, command=command)


def test_shots_alone_are_all_that_a_point_is_measured_by(
    small: Config, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    asked = measured_by(a_sweep(small, phantoms["heldout"], tmp_path, seeds=1), (), (2,), "")
    grid, _ = sweep_grid(asked)
    cell = cell_of(grid, "clip=1.0-seed0-evaluate")
    untrained = cell._replace(config=cell.config | {"weights": "random", "size": "micro"}, needs=())
    run_cell(grid._replace(cells=(untrained,)), untrained)
    rows = read_rows(run_of(grid, untrained))
    assert {row["protocol"] for row in rows} == {"2-shot"}


def test_the_command_of_a_sweep_is_kept_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["launchers/submit_sweep.py"])
    words = ["demo", "--sweep", "loss.clip=0.1,1", "--datasets=a b"]
    asked = read_sweep("", words)
    assert asked.command == (
        "python launchers/submit_sweep.py demo --sweep loss.clip=0.1,1 '--datasets=a b'"
    )


@pytest.mark.slow
def test_the_rows_of_a_table_are_points_over_their_seeds_and_results_that_are_lost_are_missed(
    small: Config, phantoms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(sweep_grid(a_sweep(small, phantoms["heldout"], tmp_path))[0])
    grid = read(tmp_path / "grids" / "sweep")
    for cell in grid.cells:
        assert not finished(grid, cell)
        run_cell(grid, cell)
        assert finished(grid, cell)
    with (grid.directory / "report-logistic" / "table1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"clip=0.1", "clip=1.0"}
    assert {row["seeds"] for row in rows} == {"0 1"}
    main(["status", str(grid.directory)])
    shown = capsys.readouterr().out
    for cell in grid.cells:  # every table is named, and not the first alone
        assert cell.stage != REPORT or f"report: {run_of(grid, cell) / 'index.html'}\n" in shown
    evaluated = cell_of(grid, "clip=1.0-seed1-evaluate")
    run = run_of(grid, evaluated)
    (predictions,) = (run / "predictions").glob("*knn*test.csv")
    predictions.rename(predictions.with_suffix(".gone"))
    assert not finished(grid, evaluated)
    before = json.loads((run / "evaluated.json").read_text())
    run_cell(grid, evaluated)  # what is stored whole is not measured again
    assert finished(grid, evaluated)
    assert json.loads((run / "evaluated.json").read_text()) == before
    more = evaluated._replace(config=evaluated.config | {"shots": [1]})
    assert not finished(grid, more)

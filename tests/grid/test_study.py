"""A study runs each cell of a table once, whatever fails and whenever it is stopped."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.engine.preemption import Preempted
from maskedclip.finetune import loop as module
from maskedclip.finetune.loop import finetune
from maskedclip.grid.start import start_study
from maskedclip.grid.study import run
from maskedclip.grid.study_command import Study, read_study
from maskedclip.metrics.results import read_rows
from maskedclip.shards.building.prepare_sample import encode
from tests.colours import config_of, two_colours

FORKS = multiprocessing.get_context("forkserver")
SHORT = [
    "random", "--size=micro", "--image_size=32", "--epochs=2", "--warmup_epochs=1", "--threads=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_colours(tmp_path_factory.mktemp("study") / "colours")


def asked(colours: Path, out: Path, *more: str) -> Study:
    return read_study("", [*SHORT, f"--datasets={colours}", f"--out={out}", *more])


def starts(out: Path) -> dict[str, int]:
    """Return how often each run was started."""
    return {
        path.parent.name: len(json.loads(path.read_text()))
        for path in sorted(out.glob("*/provenance.json"))
    }


def test_every_cell_is_a_run_and_none_is_run_twice(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = asked(colours, tmp_path, "--fractions=0.1,1", "--seeds=2")
    assert [(cell.fraction, cell.seed) for cell in study.cells] == [
        (0.1, 0), (1.0, 0), (0.1, 1), (1.0, 1),
    ]  # fmt: skip
    assert run(study) == 0
    once = {
        f"random_micro-colours-colour-{fraction}-seed{seed}": 1
        for fraction in ("0.1", "1")
        for seed in (0, 1)
    }
    assert starts(tmp_path) == once
    shown = capsys.readouterr()
    assert shown.out.endswith(f"next: python -m maskedclip.report {tmp_path} --out report\n")
    assert shown.out.count("AUROC") == 4
    assert "fine-tuning 4 of 4" in shown.err
    assert shown.err.count("with all that waits") == 6  # all epochs but those of the last cell
    assert run(study) == 0
    assert starts(tmp_path) == once
    assert "fine-tuning" not in capsys.readouterr().err
    for name in once:
        (row,) = (row for row in read_rows(tmp_path / name) if row["metric"] == "auroc")
        assert name == f"random_micro-colours-colour-{row['fraction']:g}-seed{row['seed']}"
        assert row["method"] == "random_micro"


def test_a_cell_that_fails_is_named_and_stops_no_other(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ShardWriter(tmp_path / "few", "few") as writer:
        for i in range(6):
            image_HWC = np.full((40, 40, 3), 30 * i, dtype=np.uint8)
            writer.add(f"s{i}", encode(image_HWC, 90), {"labels": {"colour": "red"}})
    study = asked(Path(f"{tmp_path / 'few'},{colours}"), tmp_path / "runs", "--seeds=1")
    assert run(study) == 1
    assert list(starts(tmp_path / "runs")) == [
        "random_micro-colours-colour-0.1-seed0", "random_micro-colours-colour-1-seed0",
    ]  # fmt: skip
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: r")]
    assert [line.split(": ")[1] for line in failed] == [
        "random_micro-few-0.1-seed0", "random_micro-few-1-seed0",
    ]  # fmt: skip
    assert all("two classes are needed" in line for line in failed)


def test_a_cell_that_would_fail_is_refused_before_it_waits_in_a_queue(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "scontrol"):  # a SLURM that answers; nothing is submitted
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with ShardWriter(tmp_path / "few", "few") as writer:
        for i in range(6):
            image_HWC = np.full((40, 40, 3), 30 * i, dtype=np.uint8)
            writer.add(f"s{i}", encode(image_HWC, 90), {"labels": {"colour": "red"}})
    both = Path(f"{colours},{tmp_path / 'few'}")
    study = asked(both, tmp_path / "runs", "--seeds=1", "--cluster=slurm", "--gpus=0")
    with pytest.raises(ValueError, match=r"^2 of 4 fine-tunings .* random_micro-few.* two classes"):
        start_study(study)
    assert not (tmp_path / "runs").exists()


def test_an_out_that_cannot_be_written_is_refused_before_any_cell_runs(
    colours: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^--out .*file is a file; choose another --out$"):
        start_study(asked(colours, tmp_path / "file", "--cluster=local"))


def test_a_study_that_was_killed_goes_on_where_it_was(colours: Path, tmp_path: Path) -> None:
    study = asked(colours, tmp_path / "killed", "--seeds=1", "--fractions=0.5,1")
    first, second = (
        tmp_path / "killed" / f"random_micro-colours-colour-{fraction}-seed0"
        for fraction in ("0.5", "1")
    )
    process = FORKS.Process(target=run, args=(study,))
    process.start()
    while not (second / "metrics.jsonl").exists():
        assert process.is_alive()
        time.sleep(0.0005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert read_rows(first)
    assert not read_rows(second)
    assert run(study) == 0
    assert starts(tmp_path / "killed") == {first.name: 1, second.name: 2}
    torch.set_num_threads(1)
    alone = finetune(replace(study.cells[1], out=str(tmp_path / "alone")))
    assert read_rows(second) == read_rows(alone)


def test_a_signal_ends_the_study_and_not_one_cell(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch = module.train_epoch

    def asked_in_the_second(*arguments):
        if arguments[5] == 1:
            signal.raise_signal(signal.SIGTERM)
        return train_epoch(*arguments)

    monkeypatch.setattr(module, "train_epoch", asked_in_the_second)
    with pytest.raises(Preempted):
        run(asked(colours, tmp_path, "--seeds=3"))
    assert list(starts(tmp_path)) == ["random_micro-colours-colour-0.1-seed0"]


@pytest.mark.parametrize(
    ("more", "grid"),
    [([], ""), (["--name=g"], "g"), (["--name=g", "--parallelism=1"], "g"),
     (["--parallelism=1"], ""), (["--parallelism=2"], "finetune")],
)  # fmt: skip
def test_a_study_on_this_machine_is_a_grid_where_it_has_a_name_or_runs_several_at_a_time(
    more: list[str], grid: str, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = ["--cluster=local", "--gpus=0", "--dry_run"]
    assert start_study(asked(colours, tmp_path, *local, *more)) == 0
    said = capsys.readouterr().out
    assert (f"grid         {tmp_path / 'grids' / grid}\n" in said) == bool(grid)
    assert said.startswith("grid " if grid else "to run ")


def test_a_dry_run_lists_the_cells_and_touches_nothing(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    config = replace(config_of(tmp_path), dataset=str(colours), name="", epochs=2, out=str(out))
    study = asked(colours, out, "--fractions=efficiency", "--seeds=1", "--dry_run")
    assert run(study) == 0
    assert not out.exists()
    assert [line.split()[-1].split("-")[3] for line in capsys.readouterr().out.splitlines()] == [
        "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1",
    ]  # fmt: skip
    finetune(replace(study.cells[-1], threads=config.threads))
    assert run(study) == 0
    states = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert states == ["to"] * 6 + ["finished"]


def test_a_tree_of_images_is_fine_tuned_as_it_is(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for i in range(2 * count):
            image_HWC = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            image_HWC[..., i % 2] += 80
            path = tmp_path / "tree" / split / ("red", "green")[i % 2] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image_HWC, 90))
    study = asked(tmp_path / "tree", tmp_path / "runs", "--fractions=1", "--seeds=1")
    assert run(study._replace(config=replace(study.config, dry_run=True))) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert run(study) == 0
    (name,) = starts(tmp_path / "runs")
    assert name == "random_micro-tree-class-1-seed0"
    (row, *_) = read_rows(tmp_path / "runs" / name)
    assert (row["dataset"], row["task"], row["n"]) == ("tree", "class", 8)
    assert run(study) == 0
    assert starts(tmp_path / "runs") == {name: 1}


def test_the_command_line_is_checked_before_anything_is_touched(
    colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = f"--datasets={colours}"
    for arguments, answer in (
        (["random"], "no dataset given"),
        ([datasets], "no weights given"),
        (["random", "more", datasets], "name several weights with commas"),
        (["random,nothing", datasets], "nothing: no such run or file of weights"),
        (["random", f"--datasets={colours}s"], "no such directory"),
        (["random", datasets, "--recipe=retfond"], "did you mean retfound?"),
        (["random", datasets, "--fraction=0.1"], "did you mean --fractions?"),
        (["random", datasets, "--fractions=10"], "write a share of the labels"),
        (["random", datasets, "--epoch=3"], "did you mean --epochs?"),
        (["random", datasets, "--seeds=0"], "is at least 1"),
        (["random", datasets, "--fractions=0.1,0.1"], "is named twice"),
        (["random", "--datasets=paper", f"--shards={colours}"], "none of the paper's datasets"),
    ):
        with pytest.raises(SystemExit) as stopped:
            read_study("", arguments)
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert answer in said
        assert said.count("\n") == 1


def test_two_cells_of_one_name_are_refused_before_any_runs(colours: Path, tmp_path: Path) -> None:
    other = Shards(colours)
    with ShardWriter(tmp_path / "colours", "others") as writer:  # than its folder is called
        for i in range(40):
            facts = {"labels": {"colour": ("red", "green")[i % 2]}, "sha256": str(i)}
            writer.add(f"s{i:02d}", other.read(0)[0], facts)
    study = asked(Path(f"{colours},{tmp_path / 'colours'}"), tmp_path / "runs", "--seeds=1")
    with pytest.raises(ValueError, match="2 fine-tunings would be called random_micro-colours"):
        run(study)
    assert not (tmp_path / "runs").exists()


def test_of_the_papers_datasets_those_are_named_that_are_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ShardWriter(tmp_path / "idrid", "idrid") as writer:
        for i in range(60):
            facts = {"labels": {"diabetic_retinopathy": str(i % 5)}, "sha256": str(i)}
            writer.add(f"s{i}", encode(np.full((40, 40, 3), i, dtype=np.uint8), 90), facts)
    words = ["--datasets=paper", f"--shards={tmp_path}", f"--out={tmp_path / 'runs'}", "--dry_run"]
    study = read_study("", [*SHORT, *words])
    assert {cell.task for cell in study.cells} == {"diabetic_retinopathy"}
    assert run(study) == 0
    missing = [line for line in caplog.messages if "is not there" in line]
    assert len(missing) == 6
    assert all("tools/make_shards.py" in line for line in missing)

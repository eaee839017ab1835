"""Single cells of a grid: their log, a retry or a cancel of one, and what was stopped here."""

import json
import os
import signal
import socket
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from maskedclip.config import LaunchConfig
from maskedclip.grid.local_pool import _Pool
from maskedclip.grid.manifest import (
    Cell,
    Grid,
    Submission,
    append,
    submissions,
    write_waiting,
)
from maskedclip.grid.slurm_arrays import forget_waiting
from maskedclip.grid.start import start_study
from maskedclip.grid.status import current_status, status_of
from maskedclip.jobs.slurm_queue import GONE, JobState
from maskedclip.slurm import main
from tests.colours import two_colours
from tests.grid.grids import finetuning, grid_of, pretrained, pretraining, submitted
from tests.grid.test_study import asked

ROOT = Path(__file__).resolve().parents[2]

GONE_NOW = JobState(GONE, "the process has ended")


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        code = main([str(word) for word in words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_the_log_of_a_cell_is_shown_from_its_newest_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(tmp_path / "grids" / "g", [pretraining("a"), pretraining("b")], "local")
    (tmp_path / "grids" / "g" / "logs").mkdir()
    for attempt in (1, 2):
        path = tmp_path / "grids" / "g" / "logs" / f"a-{attempt}.log"
        path.write_text("".join(f"line {number} of {attempt}\n" for number in range(60)))
        os.utime(path, (1e9, 1e9))  # nobody writes it any more
        append(grid, [Submission("a", "", attempt, 0.0, f"logs/a-{attempt}.log")])
    code, out, err = said(capsys, "log", grid.directory, "a", "--lines=2", "--follow")
    assert (code, out) == (0, "line 58 of 2\nline 59 of 2\n")
    assert "a-2.log" in err
    assert said(capsys, "log", grid.directory, "a", "--lines=0")[1].count("\n") == 60
    code, _, err = said(capsys, "log", grid.directory, "b")
    assert (code, err) == (1, "b: has no log: missing: was never submitted\n")
    assert "log: name a cell, as a" in said(capsys, "log", grid.directory)[2]
    assert "did you mean" in said(capsys, "log", grid.directory, "aa")[2]


def test_flags_belong_to_one_command_and_cells_to_those_that_take_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(tmp_path / "grids" / "g", [pretraining("a"), pretraining("b")], "local")
    for words, answer in (
        (["status", "a"], "status takes no cell; use --why=a"),
        (["cancel", "--hours=2"], "cancel has no flag --hours; only retry has"),
        (["retry", "--watch=2"], "retry has no flag --watch; only status has"),
        (["retry", "--hours=many"], "--hours: 'many' is not a number"),
        (["retry", "a", "--hours=2"], "runs on this machine"),
        (["retry", "nothing"], "has no cell 'nothing'"),
        (["cancel", "nothing"], "has no cell 'nothing'"),
    ):
        verb, *rest = words
        code, _, err = said(capsys, verb, grid.directory, *rest)
        assert (code, err.count("\n")) == (2, 1), words
        assert answer in err


def test_a_named_cell_that_is_done_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(tmp_path / "grids" / "g", [pretraining("a"), pretraining("b")], "local")
    pretrained(tmp_path / "a")
    code, out, err = said(capsys, "retry", grid.directory, "a")
    assert (code, err) == (1, "a: is done\n")
    assert out.startswith("nothing to submit again: 2 cells: 1 done, 1 missing")


def test_what_waits_for_room_is_pending_until_it_is_cancelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(tmp_path / "grids" / "g", [pretraining("a"), pretraining("b")])
    write_waiting(grid, {"a": {}, "b": {"hours": 2.0}})
    rows = current_status(grid)
    assert {row.state for row in rows} == {"pending"}
    assert "limit of submitted jobs" in rows[0].note
    assert forget_waiting(grid, ["b"]) == ["b"]
    assert [row.state for row in current_status(grid)] == ["pending", "missing"]
    code, out, _ = said(capsys, "cancel", grid.directory, "a")
    assert code == 0
    assert "1 cells wait for room no longer" in out
    assert not (grid.directory / "waiting.json").exists()


def test_one_cell_of_a_job_of_several_cannot_be_cancelled_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(tmp_path / "grids" / "g", [finetuning(name) for name in "abc"])
    for name in "ab":
        append(grid, [Submission(name, "12_0", 1, time.time(), f"logs/12_0_{name}.")])
    code, _, err = said(capsys, "cancel", grid.directory, "a")
    assert code == 2
    assert "a: its job 12_0 also runs b; cancel them with it, or wait" in err


def test_in_a_running_job_of_several_each_cell_has_its_turn(tmp_path: Path) -> None:
    grid = grid_of(tmp_path / "grids" / "g", [finetuning(name) for name in "abc"])
    (tmp_path / "grids" / "g" / "logs").mkdir()
    for name in "abc":
        append(grid, [Submission(name, "12_0", 1, time.time(), f"logs/12_0_{name}.")])
    for name in "ab":
        (tmp_path / "grids" / "g" / "logs" / f"12_0_{name}.log").write_text(
            "ValueError: no such class\n"
        )
    rows = status_of(grid, {"12_0": JobState("RUNNING", "")}, submissions(grid))
    assert [row.state for row in rows] == ["failed", "running", "pending"]
    assert rows[2].note == "for its turn in its job"


def test_what_was_terminated_here_is_stopped(tmp_path: Path) -> None:
    grid = grid_of(tmp_path / "grids" / "g", [finetuning("a"), finetuning("b")], "local")
    logs = tmp_path / "grids" / "g" / "logs"
    logs.mkdir()
    submitted(grid, "a", "host:123:4")
    (logs / "host:123:4_x.log").write_text(
        f"{tmp_path / 'a'}: asked to stop; step 12 is saved, and the same command goes on from it\n"
    )
    rows = status_of(grid, {"host:123:4": GONE_NOW}, submissions(grid))
    assert [row.state for row in rows] == ["stopped", "missing"]


def begun(folder: Path, cell: Cell) -> tuple[Grid, _Pool]:
    """Return a grid of one cell, and the pool that has started it on this machine."""
    grid = grid_of(folder / "grids" / "g", [cell], "local")
    grid = grid._replace(launch={cell.stage: asdict(LaunchConfig(gpus=0))})
    pool = _Pool(grid, list(grid.cells), [], ROOT)
    pool.start()
    return grid, pool


def test_a_cell_whose_process_is_killed_here_says_by_which_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, pool = begun(tmp_path, pretraining("a"))
    os.kill(pool.running[0].process.pid, signal.SIGKILL)
    pool.running[0].process.wait()
    pool.poll()
    assert "ended by Signal 9 (SIGKILL)" in pool.failed["a"]
    _, out, _ = said(capsys, "status", grid.directory, "--why=a")
    assert "killed" in out
    assert "ended by Signal 9 (SIGKILL)" in out


def test_a_cell_that_is_stopped_with_its_launcher_before_it_could_save_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, pool = begun(tmp_path, finetuning("a"))
    pool.stop()
    assert current_status(grid)[0].state == "stopped"
    _, out, _ = said(capsys, "status", grid.directory, "--why=a")
    assert "cause   stopped: asked to stop with its launcher: ended by Signal 15 (SIGTERM)" in out


def test_a_cell_whose_launcher_is_killed_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, pool = begun(tmp_path, finetuning("a"))
    pool.running[0].process.kill()
    pool.running[0].process.wait()  # and nobody notes it
    _, out, _ = said(capsys, "status", grid.directory, "--why=a")
    assert out.startswith("a: failed: the launcher that ran it here ended without a word of it")
    assert "cause   killed: the launcher that ran it here" in out
    assert "fix     give the same command again, or retry: it goes on\n" in out
    assert "SLURM" not in out


def test_a_run_of_its_own_that_no_process_holds_is_stopped(tmp_path: Path) -> None:
    run = tmp_path / "alone"
    run.mkdir()
    fields = {"weights": "random", "dataset": "shards/a", "epochs": 3}
    (run / "config.json").write_text(json.dumps(fields))
    (run / "metrics.jsonl").write_text('{"step": 5, "epoch": 1, "loss": 1.0}\n')
    provenance = run / "provenance.json"
    provenance.write_text(json.dumps([{"host": socket.gethostname()}]))
    grid = grid_of(tmp_path / "grids" / "g", [finetuning("alone")], "local")
    row = status_of(grid, {}, [])[0]
    assert (row.state, row.step) == ("stopped", 5)
    provenance.write_text(json.dumps([{"host": "elsewhere"}]))  # whose processes are not seen here
    assert status_of(grid, {}, [])[0].state == "running"
    long_ago = time.time() - 600
    for path in run.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert status_of(grid, {}, [])[0].state == "stopped"


@pytest.mark.slow
def test_a_study_with_a_name_is_the_same_grid_with_and_without_parallelism(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    colours = two_colours(tmp_path / "colours")
    grids = []
    for name, more in (("one", []), ("two", ["--parallelism=2"])):
        out = tmp_path / name
        words = ["--seeds=1", "--fractions=1", "--name=g", "--cluster=local", "--gpus=0", *more]
        assert start_study(asked(colours, out, *words)) == 0
        folder = out / "grids" / "g"
        assert (folder / "report" / "index.html").is_file()
        cells = json.loads((folder / "grid.json").read_text())["cells"]
        grids.append(json.dumps(cells).replace(str(out), "OUT"))
    assert grids[0] == grids[1]

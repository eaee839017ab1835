import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest

from maskedclip.grid.manifest import (
    LOCK,
    Grid,
    Submission,
    append,
    submissions,
    write,
    write_turns,
)
from maskedclip.grid.status import CellStatus, span, status_of
from maskedclip.grid.status_table import table
from maskedclip.jobs import processes
from maskedclip.jobs.slurm_queue import GONE, JobState
from maskedclip.metrics.file_lock import locked
from maskedclip.slurm import main
from tests.grid.grids import finetuning, grid_of, pretrained, pretraining, submitted

LATER = 1e12  # so that nothing was written lately


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """A grid of a done, a short and a missing pre-training, and a fine-tuning behind each."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM
    pretrained(tmp_path / "whole")
    pretrained(tmp_path / "half", "short")
    cells = [pretraining(name) for name in ("whole", "half", "never")]
    cells += [finetuning(f"{cell.name}-tuned", [cell.name]) for cell in cells]
    return grid_of(tmp_path / "grids" / "table2", cells)


def _row(grid: Grid, cell: str, answer: JobState | None, now: float = LATER) -> CellStatus:
    answers = {one.job: answer for one in submissions(grid) if answer is not None}
    return next(row for row in status_of(grid, answers, submissions(grid), now) if row.cell == cell)


def _state(grid: Grid, cell: str, answer: JobState, now: float = LATER) -> tuple[str, str]:
    submitted(grid, cell, "7_1")
    row = _row(grid, cell, answer, now)
    return row.state, row.note


def test_what_was_never_submitted_is_missing(grid: Grid):
    assert _row(grid, "never", None)[2:4] == ("missing", "was never submitted")


def test_cells_that_a_process_here_hands_out_wait_for_their_turn(grid: Grid):
    local = grid._replace(cluster="local")
    with locked(grid.directory / LOCK, wait=False, without=""):
        rows = {row.cell: row for row in status_of(local, {}, [], LATER)}
    assert rows["never"][2:4] == ("pending", "for its turn")
    assert rows["half-tuned"][2:4] == ("pending", "waits for half")
    assert status_of(local, {}, [], LATER)[-1].state == "missing"


def test_a_cell_that_was_done_before_the_grid_was_extended_waits_for_its_turn(grid: Grid):
    grid = grid._replace(cluster="local")
    write(grid)
    append(grid, [Submission("half", "host:1234:5", 1, 0.0, "logs/half-1.log")])
    (grid.directory / "logs").mkdir()
    (grid.directory / "logs" / "half-1.log").write_text("step 7/8 loss 0.2\n")
    over = {"host:1234:5": JobState(GONE, "the process has ended")}

    def rows() -> dict[str, CellStatus]:
        return {row.cell: row for row in status_of(grid, over, submissions(grid), LATER)}

    assert rows()["half"].state == "failed"
    with locked(grid.directory / LOCK, wait=False, without=""):
        assert rows()["half"][2:5] == ("pending", "for its turn", "")
        write_turns(grid, [cell for cell in grid.cells if cell.name == "half-tuned"])
        assert rows()["half"].state == "failed"  # the launcher had its turn with it
        assert rows()["half-tuned"].note == "waits for half"
        assert rows()["never"].state == "missing"  # retry of one cell runs no others
    assert rows()["half"].state == "failed"  # what is left of a launcher that was killed


def test_retry_says_nothing_of_cells_where_another_process_runs_the_grid(grid: Grid, capsys):
    for cluster in ("local", "slurm"):
        write(grid._replace(cluster=cluster))
        with (
            locked(grid.directory / LOCK, wait=False, without=""),
            pytest.raises(SystemExit) as stopped,
        ):
            main(["retry", str(grid.directory)])
        assert stopped.value.code == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == f"{grid.directory}: another process submits or runs it; wait for it\n"


@pytest.mark.parametrize("job", ["", "host:1234:5"])
def test_of_a_cell_here_nothing_is_said_of_slurm(grid: Grid, capsys, job: str):
    grid = grid._replace(cluster="local")
    write(grid)
    (grid.directory / "logs").mkdir()
    log = grid.directory / "logs" / "half-1.log"
    log.write_text("")
    append(grid, [Submission("half", job, 1, time.time(), "logs/half-1.log")])
    over = {job: JobState(GONE, "the process has ended")}
    (row,) = (r for r in status_of(grid, over, submissions(grid)) if r.cell == "half")
    assert row.state == "failed"  # however lately it wrote: the process is over
    assert row.note.startswith("the launcher that ran it here ended without a word")
    log.write_text("ended by Signal 15 (SIGTERM)\n")
    for words in (["status"], ["status", "--why=half"], ["log"], ["cancel"]):
        verb, *rest = words
        cells = ["half"] if verb == "log" else []
        main([verb, str(grid.directory), *cells, *rest])
        said = capsys.readouterr()
        assert not re.search("SLURM|squeue|sacct", said.out + said.err)


def test_a_waiting_job_says_for_what(grid: Grid):
    answer = JobState("PENDING", "Resources")
    assert _state(grid, "half", answer) == ("pending", "for free nodes (Resources)")


def test_a_job_behind_an_unfinished_one_waits_for_it(grid: Grid):
    answer = JobState("PENDING", "Dependency")
    assert _state(grid, "half-tuned", answer) == ("pending", "waits for half")


def test_a_running_job_shows_step_loss_rate_time_left_and_age(grid: Grid):
    submitted(grid, "half", "7_1")
    changed = (
        (grid.directory / "../../half/checkpoints/step-00000004/manifest.json").stat().st_mtime
    )
    row = _row(grid, "half", JobState("RUNNING", ""), changed + 240)
    assert (row.state, row.step, row.steps, row.images_per_s) == ("running", 7, 8, 720.0)
    assert row.loss == pytest.approx(1 / 7)
    assert row.left_s == pytest.approx(720 / 720)  # a step, without an unpaired source
    assert row.checkpoint_age_s == pytest.approx(240)
    assert "4 min ago" in table([row])


def test_a_running_job_that_is_quiet_is_pointed_out(grid: Grid):
    state, note = _state(grid, "half", JobState("RUNNING", ""))
    assert state == "running"
    assert note.startswith("nothing written for")


def test_a_job_queued_again_is_pre_empted_and_goes_on(grid: Grid):
    state, note = _state(grid, "half", JobState("PENDING", "BeginTime", restarts=1))
    assert (state, note.split(" (")[0]) == ("pre-empted", "waits; goes on from step 4")


def test_the_time_limit_is_its_own_state(grid: Grid):
    answer = JobState("TIMEOUT", "", "0:0")
    assert _state(grid, "half", answer) == (
        "timed out",
        "at its time limit; a retry goes on from step 4",
    )


def test_a_cell_whose_need_is_not_finished_is_held(grid: Grid):
    answer = JobState("FAILED", "NonZeroExitCode", "3:0")
    held = "held", "waits for half, which is not finished"
    assert _state(grid, "half-tuned", answer) == held


def test_completed_without_results_is_failed(grid: Grid):
    assert _state(grid, "half", JobState("COMPLETED", "", "0:0"))[0] == "failed"


def test_a_failed_job_shows_the_error_of_its_log(grid: Grid):
    (grid.directory / "logs").mkdir()
    text = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nKeyError: "eye"\n'
    (grid.directory / "logs" / "7_1_0_log.err").write_text(text)
    (grid.directory / "logs" / "7_11_0_log.err").write_text("ZeroDivisionError: another job\n")
    state, note = _state(grid, "half", JobState("FAILED", "", "1:0"))
    assert state == "failed"
    assert "KeyError" in note
    assert "\n" not in note


def test_no_answer_and_no_movement_is_lost(grid: Grid):
    state, note = _state(grid, "half", JobState("", "squeue: is not on this machine"))
    assert state == "lost"
    assert note.startswith("squeue: is not on this machine; nothing written for")


def test_no_answer_but_movement_is_running(grid: Grid):
    changed = (grid.directory / "../../half/metrics.jsonl").stat().st_mtime
    state, note = _state(grid, "half", JobState("", "squeue: exit code 1"), changed + 1)
    assert (state, note) == ("running", "it writes, though squeue: exit code 1")


def test_a_job_that_squeue_does_not_list_yet_is_pending(grid: Grid):
    submitted(grid, "never", "7_1", time_s=LATER - 5)
    assert _row(grid, "never", JobState(GONE, "")).state == "pending"
    assert _row(grid, "never", JobState(GONE, ""), LATER + 600).state == "failed"


def test_the_latest_submission_counts(grid: Grid):
    submitted(grid, "half", "7_1")
    submitted(grid, "half", "9", attempt=2)
    answers = {"7_1": JobState("FAILED", ""), "9": JobState("RUNNING", "")}
    (row,) = [r for r in status_of(grid, answers, submissions(grid), LATER) if r.cell == "half"]
    assert (row.state, row.job, row.attempt) == ("running", "9", 2)


def test_a_cell_is_not_called_failed_while_another_job_of_it_runs(grid: Grid, capsys, tmp_path):
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\nprintf '7_1|RUNNING|None|0|0|n1|\\n9|FAILED|NonZeroExitCode|256|0|n1|\\n'\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    submitted(grid, "half", "7_1")
    submitted(grid, "half", "9", attempt=2)  # refused, as the first has the directory
    answers = {"7_1": JobState("RUNNING", ""), "9": JobState("FAILED", "", "1:0")}
    (row,) = [r for r in status_of(grid, answers, submissions(grid), LATER) if r.cell == "half"]
    assert (row.state, row.job, row.attempt) == ("running", "7_1", 1)
    main(["status", str(grid.directory), "--why=half"])
    shown = capsys.readouterr().out
    assert shown.startswith("half: running")
    assert "job     7_1, attempt 1: RUNNING on n1" in shown
    over = {"7_1": JobState("FAILED", ""), "9": JobState("CANCELLED", "")}
    (row,) = [r for r in status_of(grid, over, submissions(grid), LATER) if r.cell == "half"]
    assert (row.state, row.job) == ("cancelled", "9")


def test_why_answers_where_a_job_has_left_no_log(grid: Grid, capsys, tmp_path):
    answer = "7_1|FAILED|JobLaunchFailure|9|0|n1|\\n"
    (tmp_path / "squeue").write_text(f"#!/bin/sh\nprintf '{answer}'\n")
    (tmp_path / "squeue").chmod(0o755)
    submitted(grid, "half", "7_1")
    main(["status", str(grid.directory), "--why=half"])
    shown = capsys.readouterr().out
    assert (
        "cause   refused: SLURM says FAILED JobLaunchFailure" in shown or "cause   killed" in shown
    )
    assert f"none at {grid.directory / 'logs/7_1_'}*" in shown


def test_rows_stand_by_stage_and_columns_are_aligned(grid: Grid):
    rows = status_of(grid, {}, [], LATER)
    assert [row.stage for row in rows] == ["pretrain"] * 3 + ["finetune"] * 3
    lines = table(rows).splitlines()
    column = lines[0].index("state")
    assert {line[column - 1] for line in lines} == {" "}


def row_of(cell: str, state: str, note: str = "") -> CellStatus:
    return CellStatus(cell, "finetune", state, note, "7", 1, 40, 4000, 3.25, 812.0, 3700.0, 65.0)


def test_a_terminal_of_80_columns_has_no_longer_line_and_says_what_it_leaves_out():
    name = "maskedclip-idrid-diabetic_retinopathy-0.1-seed3"
    note = "waits for maskedclip, which is not finished, and for free nodes (Resources)"
    rows = [row_of(name, "running"), row_of("b", "failed", note), row_of("c", "running")]
    wide = table(rows).splitlines()
    assert max(map(len, wide)) > 80
    lines = table(rows, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert name in lines[1]  # which --why takes
    assert lines[3].strip() == note
    assert lines[-1] == "(no room here for: saved, images/s, loss, stage)"
    state = lines[0].index("state")
    assert [line[state:].split()[0] for line in (lines[1], lines[2])] == ["running", "failed"]
    assert table(rows, 300) == table(rows)


def test_colours_stand_around_states_and_change_no_column():
    rows = [row_of("a", "running"), row_of("b", "failed", "killed"), row_of("c", "done")]
    coloured = table(rows, 80, coloured=True)
    assert "\x1b[31mfailed " in coloured
    assert "\x1b[32mdone " in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured).split() == table(rows, 80).split()


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_status_is_coloured_on_a_terminal_alone(grid: Grid, variables, coloured):
    command = [sys.executable, "-m", "maskedclip.slurm", "status", str(grid.directory)]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment = plain | {"TERM": "xterm"} | variables
    subprocess.run(command, stdout=theirs, env=environment, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        shown = b""
        with suppress(OSError):  # how a terminal ends
            while part := terminal.read(4096):
                shown += part
    assert (b"\x1b[" in shown) == coloured
    table_lines = re.sub(r"\x1b\[\d+m", "", shown.decode()).split("\r\n\r\n")[1].split("\r\n")
    assert max(map(len, table_lines)) <= 80
    piped = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "\x1b[" not in piped.stdout


@pytest.mark.parametrize(("seconds", "said"), [(5, "5 s"), (240, "4 min"), (7200, "2 h")])
def test_a_span_is_said_in_one_unit(seconds: float, said: str):
    assert span(seconds) == said


def test_status_shows_a_summary_the_rows_and_the_next_command(grid: Grid, capsys):
    submitted(grid, "half", "7_1")
    assert main(["status", str(grid.directory)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "6 cells: 1 done" in lines[0]
    assert any(line.startswith("next: ") for line in lines)


def test_json_is_one_object_with_a_count_a_state(grid: Grid, capsys):
    main(["status", "--json", str(grid.directory)])
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"]["done"] == 1
    assert len(shown["cells"]) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "{}2"], "did you mean {}"),
        (["status", "{}", "--why=hlaf"], "did you mean half"),
        (["cancle", "{}"], "did you mean cancel"),
        (["status", "{}", "--wtach=3"], "did you mean --watch"),
        (["status", "{}", "--watch=0.1"], "at least 1 second"),
        (["retry", "{}", "--watch=3"], "only status has"),
        (["status"], "name a grid or a run"),
        ([], "status, retry or cancel"),
    ],
)
def test_mistakes_end_in_one_line_with_the_nearest_name(grid: Grid, capsys, words, said):
    path = str(grid.directory)
    with pytest.raises(SystemExit) as stopped:
        main([word.format(path) for word in words])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said.format(path) in line


def test_a_single_run_is_a_grid_of_one_cell(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    pretrained(tmp_path / "runs" / "one")
    main(["status", str(tmp_path / "runs" / "one")])
    assert "1 cell: 1 done" in capsys.readouterr().out


def test_a_run_whose_fields_had_other_names_is_done_as_it_was(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    run = tmp_path / "runs" / "one"
    pretrained(run)
    config = json.loads((run / "config.json").read_text())
    config["after"]["beside_untrained"] = config["after"].pop("beside_start")
    config["engine"]["recompute"] = config["engine"].pop("activation_checkpointing")
    (run / "config.json").write_text(json.dumps(config))
    main(["status", str(run)])
    assert "1 cell: 1 done" in capsys.readouterr().out


def test_why_shows_the_traceback_and_where_the_logs_are(grid: Grid, capsys):
    logs = grid.directory / "logs"
    logs.mkdir()
    text = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nKeyError: "eye"\n'
    (logs / "7_1_0_log.err").write_text(text)
    (logs / "7_1_0_result.pkl").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    submitted(grid, "half", "7_1")
    main(["status", str(grid.directory), "--why", "half"])
    shown = capsys.readouterr().out
    assert str(logs / "7_1_0_log.err") in shown
    assert "result.pkl" not in shown


def test_cancel_ends_the_jobs_of_the_grid_and_no_others(grid: Grid, tmp_path: Path):
    answer = "7_[1-3]|PENDING|Priority|0|0||\\n8|RUNNING|None|0|0|n1|\\n9|RUNNING|None|0|0|n1|\\n"
    for name, line in (
        ("squeue", f"printf '{answer}'"),
        ("scancel", f'echo "$@" > {tmp_path}/ended'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    submitted(grid, "half", "7_2")
    submitted(grid, "never", "8")
    assert main(["cancel", str(grid.directory)]) == 0
    assert (tmp_path / "ended").read_text().split() == ["7_2", "8"]


def test_cancel_ends_the_processes_of_a_local_grid(grid: Grid):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        submitted(grid, "half", processes.named(child.pid))
        assert main(["cancel", str(grid.directory)]) == 0
        assert child.wait(60) < 0
        assert other.poll() is None
    finally:
        child.kill()
        other.kill()


def test_help_answers_without_torch():
    words = [sys.executable, "-X", "importtime", "-m", "maskedclip.slurm", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert "--why" in done.stdout
    assert " torch\n" not in done.stderr

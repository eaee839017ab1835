import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maskedclip.jobs import processes
from maskedclip.jobs.slurm_queue import GONE, ask

Fake = Callable[..., None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Give a function that puts a squeue or sacct of a few lines of shell on an empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(command: str, *lines: str, answer: str = "") -> None:
        (tmp_path / f"{command}.txt").write_text(answer)
        script = ["#!/bin/sh", "PATH=/usr/bin:/bin", f'echo "$@" >> {tmp_path}/{command}.asked']
        script += lines or [f"cat {tmp_path}/{command}.txt"]
        (tmp_path / command).write_text("\n".join(script) + "\n")
        (tmp_path / command).chmod(0o755)

    return put


def test_what_waits_and_runs_is_listed_by_squeue(fake: Fake):
    fake("squeue", answer="12|PENDING|Priority|0|0||\n13|RUNNING|None|0|2|node[1-2]|\n")
    states = ask(["12", "13"])
    assert states["12"] == ("PENDING", "Priority", "", "", 0)
    assert states["13"] == ("RUNNING", "", "", "node[1-2]", 2)


def test_arrays_are_unfolded(fake: Fake):
    fake(
        "squeue", answer="12_[1,3-5,8-20:4%2]|PENDING|Resources|0|0||\n12_0|RUNNING|None|0|0|n1|\n"
    )
    states = ask([f"12_{i}" for i in range(22)])
    waiting = [i for i in range(22) if states[f"12_{i}"].state == "PENDING"]
    assert waiting == [1, 3, 4, 5, 8, 12, 16, 20]
    assert states["12_0"].state == "RUNNING"
    assert states["12_2"].state == states["12_21"].state == GONE


def test_the_exit_code_is_read_from_the_wait_status_of_squeue(fake: Fake):
    fake(
        "squeue", answer="1|FAILED|NonZeroExitCode|1792|0|n1|\n2|FAILED|JobLaunchFailure|9|0|n1|\n"
    )
    states = ask(["1", "2"])
    assert states["1"].exit_code == "7:0"
    assert states["2"].exit_code == "0:9"


def test_what_has_left_squeue_is_listed_by_sacct(fake: Fake):
    fake("squeue", answer="")
    fake("sacct", answer="7_1|CANCELLED by 1000|0:15|n1\n7_1.batch|CANCELLED|0:15|n1\n")
    assert ask(["7_1"])["7_1"] == ("CANCELLED", "by 1000", "0:15", "n1", None)


def test_a_step_killed_for_memory_makes_a_failed_job_one_out_of_memory(fake: Fake):
    fake("squeue", answer="")
    fake("sacct", answer="7|FAILED|1:0|n1\n7.batch|FAILED|1:0|n1\n7.0|OUT_OF_MEMORY|0:125|n1\n")
    assert ask(["7"])["7"].state == "OUT_OF_MEMORY"


def test_a_step_that_failed_does_not_fail_its_job(fake: Fake):
    fake("squeue", answer="")
    fake("sacct", answer="7|COMPLETED|0:0|n1\n7.0|FAILED|1:0|n1\n")
    assert ask(["7"])["7"].state == "COMPLETED"


def test_accounting_that_is_late_does_not_keep_a_job_running(fake: Fake):
    fake("squeue", answer="")
    fake("sacct", answer="7|RUNNING|0:0|n1\n")
    assert ask(["7"])["7"].state == GONE


def test_accounting_of_an_earlier_attempt_does_not_end_a_job(fake: Fake):
    fake("squeue", answer="7|PENDING|BeginTime|0|1||\n")
    fake("sacct", answer="7|PREEMPTED|0:0|n1\n")
    assert ask(["7"])["7"] == ("PENDING", "BeginTime", "", "", 1)


def test_a_single_job_that_squeue_calls_invalid_is_gone(fake: Fake):
    fake("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    fake("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert ask(["7"])["7"].state == GONE


@pytest.mark.usefixtures("fake")
def test_without_either_command_nothing_is_known_and_that_is_said():
    state = ask(["7"])["7"]
    assert state.state == ""
    assert state.reason == "squeue: is not on this machine; sacct: is not on this machine"


def test_a_command_that_fails_is_quoted(fake: Fake):
    fake("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    state = ask(["7"])["7"]
    assert state.state == ""
    assert "Unable to contact slurm controller" in state.reason


def test_where_squeue_fails_accounting_is_taken_alone_and_that_is_said(fake: Fake):
    fake("squeue", "exit 3")
    fake("sacct", answer="7|RUNNING|0:0|n1\n8|FAILED|1:0|n1\n")
    states = ask(["7", "8", "9"])
    assert states["7"].state == "RUNNING"
    assert states["7"].reason == "by accounting alone: squeue: exit code 3"
    assert states["8"].state == "FAILED"
    assert states["9"].state == ""


def test_a_command_that_hangs_with_a_child_is_left_after_the_limit(fake: Fake, tmp_path: Path):
    fake("squeue", f"sleep 30 & echo $! > {tmp_path}/child; wait")
    start = time.monotonic()
    state = ask(["7"], limit_s=0.3)["7"]
    assert time.monotonic() - start < 25
    assert state.state == ""
    assert "squeue: no answer within 0.3 s" in state.reason
    child = int((tmp_path / "child").read_text())
    time.sleep(0.1)
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or ") Z " in stat.read_text()


@pytest.mark.parametrize(
    "answer",
    [
        "7|RUNN",
        "7|RUNNING|None|0|0|n1|",  # no end of line: more was to come
        "7_[1-|PENDING|None|0|0||\n",
        "7_[1,3,...]|PENDING|None|0|0||\n",
        "7_[5-1]|PENDING|None|0|0||\n",
        "7|running?|None|0|0||\n",
        "7|RUNNING|None|0|0\n",
        "\x00\xff garbage\n",
        "JOBID PARTITION NAME USER ST TIME NODES NODELIST(REASON)\n",
    ],
)
def test_half_an_answer_and_garbage_make_nothing_gone(fake: Fake, answer: str):
    fake("squeue", answer=answer)
    state = ask(["7"])["7"]
    assert state.state == ""
    assert "cannot be read" in state.reason


def test_garbage_beside_a_good_line_leaves_the_good_line(fake: Fake):
    fake("squeue", answer="?\n7|RUNNING|None|0|0|n1|\n")
    states = ask(["7", "8"])
    assert states["7"].state == "RUNNING"
    assert states["8"].state == ""


def test_jobs_of_others_in_the_answer_are_left_out(fake: Fake):
    fake(
        "squeue",
        answer="7|RUNNING|None|0|0|n1|\n8|RUNNING|None|0|0|n1|\n9_[0-999999]|PENDING||0|0||\n",
    )
    assert list(ask(["7"])) == ["7"]


def test_an_array_of_a_thousand_is_one_question(fake: Fake, tmp_path: Path):
    fake("squeue", answer="7_[0-999%8]|PENDING|Resources|0|0||\n")
    states = ask([f"7_{i}" for i in range(1000)])
    assert {answer.state for answer in states.values()} == {"PENDING"}
    (question,) = (tmp_path / "squeue.asked").read_text().splitlines()
    assert "--jobs=7 " in question + " "
    assert not (tmp_path / "sacct.asked").exists()


def test_many_jobs_are_asked_for_in_chunks(fake: Fake, tmp_path: Path):
    fake("squeue", answer="")
    ask([str(i) for i in range(1000)])
    assert len((tmp_path / "squeue.asked").read_text().splitlines()) == 3


def test_a_silent_command_is_asked_once(fake: Fake, tmp_path: Path):
    fake("squeue", "exit 1")
    ask([str(i) for i in range(1000)])
    assert len((tmp_path / "squeue.asked").read_text().splitlines()) == 1


def test_what_is_no_job_is_never_put_on_a_command_line(fake: Fake, tmp_path: Path):
    fake("squeue", answer="")
    states = ask(["--all", "7;rm -rf x", "7_1,8", "\u0661"])
    assert {answer.state for answer in states.values()} == {""}
    assert not (tmp_path / "squeue.asked").exists()


def test_settings_of_the_user_hide_no_job(fake: Fake, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    fake("squeue", f"env > {tmp_path}/env")
    ask(["7"])
    variables = (tmp_path / "env").read_text()
    assert "SQUEUE_STATES" not in variables
    assert "SLURM_BITSTR_LEN=0" in variables


def test_a_process_is_known_by_its_start_and_not_by_its_number_alone():
    name = processes.named(os.getpid())
    host, process, start = name.split(":")
    assert ask([name])[name].state == "RUNNING"
    another = f"{host}:{process}:{int(start) + 1}"
    assert ask([another])[another].state == GONE
    elsewhere = f"not-{host}:{process}:{start}"
    assert ask([elsewhere])[elsewhere].state == ""


def test_a_process_that_was_over_before_it_had_a_name_is_gone():
    assert ask([""])[""].state == GONE


def test_the_holder_of_a_lock_is_found(tmp_path: Path):
    path = tmp_path / "lock"
    assert processes.holder(path) is None
    with path.open("w") as file:
        assert processes.holder(path) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert processes.holder(path) == processes.named(os.getpid())
    assert processes.holder(path) is None


def test_ending_a_process_ends_its_group_and_nothing_of_the_same_number():
    code = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    name = processes.named(child.pid)
    host, process, start = name.split(":")
    assert not processes.end(f"{host}:{process}:{int(start) + 1}")
    assert processes.alive(name)
    assert processes.end(name)
    assert child.wait(60) == -signal.SIGTERM
    assert not processes.alive(name)
    assert not processes.end(name)

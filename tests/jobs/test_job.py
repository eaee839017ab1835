"""What a job does around its work: where its ranks meet, and what a killed attempt has left."""

import errno
import logging
import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from maskedclip.command import is_mistake
from maskedclip.config import Config, override, save
from maskedclip.grid.diagnosis import STOPPED, Evidence, cause_of
from maskedclip.jobs import job as module
from maskedclip.jobs.job import Job, _port, as_a_job, interpreter


def test_ranks_meet_at_another_port_in_each_attempt_and_below_those_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ports = []
    for job in ("12", "12_3"):
        for restart in range(20):
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
            ports.append(_port(job))
            assert ports[-1] == _port(job)  # every rank finds the same
    assert len(set(ports)) == len(ports)
    assert all(20_000 <= port < 32_768 for port in ports)
    monkeypatch.delenv("SLURM_RESTART_COUNT")  # as SLURM has it in the first attempt
    assert _port("12") == ports[0]


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Be the first rank of job 7 of submitit."""
    before = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm",
        "SUBMITIT_FOLDER": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    level, handling = logging.getLogger().level, logging.getLogger().handlers[:]
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)
    logging.getLogger().setLevel(level)
    logging.getLogger().handlers[:] = handling
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("in_a_job")
def test_a_process_that_is_forked_by_a_job_neither_queues_it_again_nor_outlives_it() -> None:
    def fork() -> tuple[object, object]:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            numbers = (signal.SIGUSR2, signal.SIGTERM)
            os.write(writer, repr([signal.getsignal(n) for n in numbers]).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return os.read(reader, 1000).decode()

    def queue_again(_number: int, _frame: object) -> None:
        pytest.fail("a child would queue the job again")

    signal.signal(signal.SIGUSR2, queue_again)
    ignored, default = signal.SIG_IGN, signal.SIG_DFL
    assert as_a_job(fork) == repr([ignored, default])


def test_half_a_result_of_a_killed_attempt_does_not_keep_the_next_from_writing_its_own(
    in_a_job: Path,
) -> None:
    half, others = (in_a_job / f"7_{rank}_result.pkl.save_tmp" for rank in range(2))
    half.touch()
    others.touch()
    assert as_a_job(lambda: half.exists()) is False
    assert others.exists()


@pytest.mark.usefixtures("in_a_job")
def test_a_rank_keeps_the_gpus_that_slurm_has_given_its_job(
    small: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "CUDA_VISIBLE_DEVICES": "2,3",
        "SLURM_LOCALID": "0",
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    absent = str(tmp_path / "absent")
    # it stops for want of these GPUs, or where they are here for want of the shards
    with pytest.raises((RuntimeError, ValueError), match=r"CUDA_VISIBLE_DEVICES=2,3, and|absent"):
        Job(override(small, {"data.paired": (absent,)}))()
    assert os.environ["LOCAL_RANK"] == "0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.usefixtures("in_a_job")
def test_an_element_of_an_array_is_queued_again_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from maskedclip.engine.preemption import REQUEUE, Preempted

    # the last element of an array has the number of the array for its own
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    scontrol, asked = tmp_path / "scontrol", tmp_path / "asked"
    scontrol.write_text(
        f'#!/bin/sh\necho "$*" >> {asked}\n'
        '[ "$1" = requeue ] || echo "JobId=7 ArrayTaskId=3 JobState=RUNNING Restarts=0"\n'
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def leave() -> None:
        raise Preempted(tmp_path, 3, REQUEUE)

    with pytest.raises(SystemExit) as left:
        as_a_job(leave)
    assert left.value.code == 0
    assert asked.read_text().splitlines() == ["--oneliner show job 7_3", "requeue 7_3"]


SCONTROL = """#!/bin/sh
[ "$(cat {folder}/silent)" -gt 0 ] && {{
  echo $(($(cat {folder}/silent) - 1)) > {folder}/silent
  echo "Unable to contact slurm controller (connect failure)" >&2
  exit 1
}}
[ "$1" = requeue ] && {{ touch {folder}/queued; exit; }}
echo "JobId=7 JobState=RUNNING Restarts=$([ -e {folder}/queued ] && echo 1 || echo 0)"
"""


def warned(folder: Path, monkeypatch: pytest.MonkeyPatch, silent: int) -> None:
    """Be warned, having saved, while SLURM does not answer so many questions."""
    from maskedclip.engine.preemption import REQUEUE, Preempted

    (folder / "silent").write_text(str(silent))
    scontrol = folder / "scontrol"
    scontrol.write_text(SCONTROL.format(folder=folder))
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.05)

    def leave() -> None:
        raise Preempted(folder, 3, REQUEUE)

    as_a_job(leave)


def test_a_silent_slurm_is_asked_again_until_it_answers(
    in_a_job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as left:
        warned(in_a_job, monkeypatch, silent=4)
    assert left.value.code == 0
    assert (in_a_job / "queued").exists()
    assert not list(in_a_job.glob("*_not_queued_again.txt"))


def test_where_slurm_stays_silent_a_mark_is_left_that_the_next_start_removes(
    in_a_job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 0.3)
    with pytest.raises(RuntimeError, match="job 7 is saved, but SLURM does not queue it again"):
        warned(in_a_job, monkeypatch, silent=1000)
    (mark,) = in_a_job.glob("7_not_queued_again.txt")
    cause = cause_of(Evidence(((mark.name, mark.read_text()),), "FAILED", "1:0", ""))
    assert cause.kind == STOPPED
    assert "7 is saved, but SLURM does not queue it again" in cause.line
    as_a_job(lambda: None)
    assert not mark.exists()


@pytest.mark.usefixtures("in_a_job")
def test_a_warning_that_comes_as_a_job_starts_is_kept_and_queues_it_again(
    in_a_job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (in_a_job / "silent").write_text("0")
    scontrol = in_a_job / "scontrol"
    scontrol.write_text(SCONTROL.format(folder=in_a_job))
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{in_a_job}:{os.environ['PATH']}")
    begun = []
    program = "import signal; signal.raise_signal(signal.SIGUSR2); print('alive')"
    started = subprocess.run(
        [*shlex.split(interpreter("")), "-c", program], capture_output=True, text=True
    )
    assert started.stdout == "alive\n"  # as the job's interpreter it is not killed
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})  # what the interpreter's start does
    signal.raise_signal(signal.SIGUSR2)
    with pytest.raises(SystemExit) as left:
        as_a_job(lambda: begun.append(True))
    assert left.value.code == 0
    assert begun == []
    assert (in_a_job / "queued").exists()


def test_a_finished_run_is_left_as_it_is(small: Config) -> None:
    Job(small)()
    names = ("encoder.safetensors", "metrics.jsonl")
    before = [(small.directory / name).read_bytes() for name in names]
    Job(small)()
    after = [(small.directory / name).read_bytes() for name in names]
    assert after[1] == before[1]
    assert len(after[0]) == len(before[0])


def test_a_mistake_that_is_found_in_a_job_is_one_line_of_its_log_and_no_traceback(
    small: Config, tmp_path: Path
) -> None:
    import submitit

    small.directory.mkdir(parents=True)
    save(override(small, {"data.window": 8}), small.directory / "config.json")
    executor = submitit.LocalExecutor(folder=tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    job = executor.submit(Job(small, 0))
    assert "data.window 8, now 0" in str(job.exception())
    shown = job.paths.stderr.read_text()
    (line,) = [x for x in shown.splitlines() if x.startswith("error: ")]
    assert "holds a run with data.window 8, now 0; use another --name" in line
    assert "Traceback" not in shown
    assert "[rank" not in shown
    cause = cause_of(Evidence((("7_0_log.err", shown),), "FAILED", "1:0", ""))
    assert (cause.kind, "data.window 8, now 0" in cause.line) == ("exception", True)


def test_what_a_library_raises_keeps_its_traceback() -> None:
    def caught(action) -> BaseException:
        try:
            action()
        except Exception as error:
            return error
        raise AssertionError

    assert is_mistake(caught(lambda: override(Config(), {"nmae": 1})))
    assert is_mistake(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_mistake(caught(lambda: int("x")))
    assert not is_mistake(caught(lambda: torch.ones(2) @ torch.ones(3)))
    assert not is_mistake(caught(lambda: {}["eye"]))

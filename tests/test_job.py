"""What a job does around its work: where its ranks meet, and what a killed life has left."""

import logging
import os
import signal
from pathlib import Path

import pytest

from maskedclip.job import _port, as_a_job


def test_ranks_meet_at_another_port_in_each_life_and_below_those_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ports = []
    for job in ("12", "12_3"):
        for life in range(20):
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(life))
            ports.append(_port(job))
            assert ports[-1] == _port(job)  # every rank finds the same
    assert len(set(ports)) == len(ports)
    assert all(20_000 <= port < 32_768 for port in ports)
    monkeypatch.delenv("SLURM_RESTART_COUNT")  # as SLURM has it in the first life
    assert _port("12") == ports[0]


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Be the first rank of job 7 of submitit."""
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


def test_half_a_result_of_a_killed_life_does_not_keep_the_next_from_writing_its_own(
    in_a_job: Path,
) -> None:
    half, others = (in_a_job / f"7_{rank}_result.pkl.save_tmp" for rank in range(2))
    half.touch()
    others.touch()
    assert as_a_job(lambda: half.exists()) is False
    assert others.exists()

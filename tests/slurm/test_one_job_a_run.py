"""Of two commands that submit one run, one job comes, and the other command names it."""

import multiprocessing
import subprocess
from collections.abc import Callable

import pytest

from maskedclip.config import Config, override
from maskedclip.jobs.submit import submit
from tests.slurm.attempts import LAUNCH

pytestmark = pytest.mark.slurm
FORK = multiprocessing.get_context("fork")
HELD = override(LAUNCH, {"sbatch": ("--hold",), "partition": "main"})


def submit_and_say(config: Config, answers) -> None:
    try:
        submit(config, HELD)
        answers.put("")
    except RuntimeError as error:
        answers.put(str(error))


def test_of_two_submissions_at_once_one_wins_and_the_other_says_so(
    run: Config, slurm: Callable[[], list[str]], until_idle: Callable[[float], None]
) -> None:
    answers = FORK.Queue()
    both = [FORK.Process(target=submit_and_say, args=(run, answers)) for _ in range(2)]
    for process in both:
        process.start()
    won, refused = sorted(answers.get(timeout=120) for _ in both)
    for process in both:
        process.join()
    (job,) = (line.split()[0] for line in slurm())
    assert won == ""
    assert "another command starts or runs it" in refused or f"job {job} waits or runs" in refused
    with pytest.raises(RuntimeError, match=f"job {job} waits or runs for it already"):
        submit(run, HELD)
    subprocess.run(["scancel", job], check=True)
    until_idle(30)
    submit(run, HELD)  # as it is over
    (again,) = (line.split()[0] for line in slurm())
    assert again != job
    subprocess.run(["scancel", again], check=True)
    until_idle(30)

"""Two commands that start one run at a time: the second is refused, and says who has it."""

from pathlib import Path

import pytest

from maskedclip.config import Config, LaunchConfig
from maskedclip.jobs.submit import alone, submit


def test_a_run_that_is_run_here_is_not_started_again(small: Config) -> None:
    folder = small.directory.resolve() / "jobs"
    launch = LaunchConfig(cluster="local", gpus=0)
    with alone(folder, "local"), pytest.raises(RuntimeError, match="another command starts or run"):
        submit(small, launch)
    assert not (small.directory / "config.json").exists()


def test_a_command_that_was_killed_keeps_nobody_from_starting_the_run(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / ".lock").touch()  # whose lock the kernel has released
    with alone(tmp_path / "jobs", "local"):
        pass

"""Ctrl-C and SIGTERM where there is no SLURM: the run saves, leaves, and goes on when asked to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskedclip.config import Config, override, save

pytestmark = pytest.mark.slow
STEPS = 40
COMMAND = """
import sys
from pathlib import Path
from maskedclip.command import one_line_errors
from maskedclip.config import Config, LaunchConfig, load
from maskedclip.jobs.submit import submit

with one_line_errors():
    launch = LaunchConfig(gpus=0, cpu_ranks=2, cluster=sys.argv[2])
    submit(load(Path(sys.argv[1]), Config), launch)
"""


def start(config: Config, cluster: str) -> subprocess.Popen[str]:
    written = Path(config.out).parent / "config.json"
    save(config, written)
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(written), cluster],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # a process group of its own, as in a terminal
        stderr=subprocess.PIPE,
        text=True,
    )


def steps(config: Config) -> list[int]:
    path = config.directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_a_run_that_is_asked_to_stop_saves_and_the_same_command_goes_on(
    small: Config, cluster: str, number: signal.Signals
) -> None:
    config = override(small, {"optim.steps": STEPS, "engine.save_every": 1000})
    process = start(config, cluster)
    end = time.monotonic() + 120
    while len(steps(config)) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    if number != signal.SIGTERM:
        os.killpg(process.pid, number)  # what a terminal does
    else:
        process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    (checkpoint,) = (config.directory / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert 3 <= step < STEPS
    assert process.returncode == 2
    assert f"step {step} is saved, and the same command goes on from it" in said
    assert "Traceback" not in said
    again = start(config, cluster)
    again.communicate(timeout=180)
    assert again.returncode == 0
    assert steps(config) == list(range(1, STEPS + 1))

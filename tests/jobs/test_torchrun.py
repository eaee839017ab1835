"""torchrun -m maskedclip.pretrain RECIPE: one voice, one line where it ends badly, and a way on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from maskedclip.config import Config, field_names, flat, override

pytestmark = pytest.mark.slow
# --standalone: a free port, as other tests may run beside this one
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def flags(config: Config, **changes: object) -> list[str]:
    """Return what changes the demo into a run of the tests."""
    values = flat(asdict(override(config, changes)))
    assert set(values) == set(field_names(config))
    written = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in values.items()}
    return [
        f"--{name}={value}"
        for name, value in written.items()
        if value is not None and (value != "" or name.startswith("after"))
    ]


def start(config: Config, *more: str, **changes: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, "-m", "maskedclip.pretrain", "demo", *flags(config, **changes), *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps(config: Config) -> list[int]:
    path = config.directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def test_two_ranks_speak_with_one_voice_and_measure_what_is_asked_for(
    small: Config, phantoms: dict[str, Path]
) -> None:
    heldout = {"after.datasets": (str(phantoms["heldout"]),), "after.protocols": ("linear",)}
    process = start(small, **heldout)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.count("step 6/6") == 1
    assert out.count(f"{small.directory} is done") == 1
    assert steps(small) == [1, 2, 3, 4, 5, 6]
    assert (small.directory / "encoder.safetensors").is_file()
    rows = (small.directory / "results.jsonl").read_text().splitlines()
    assert rows
    assert json.loads((small.directory / "provenance.json").read_text())[0]["world"] == 2


def test_what_is_wrong_is_said_in_one_line_by_one_rank(small: Config, tmp_path: Path) -> None:
    process = start(small, f"--data.paired={tmp_path / 'absent'}")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1  # torchrun's own, whatever its ranks end with
    assert err.count("absent") == 1
    ours = err.partition("failed (exitcode")[0]  # what torchrun says of itself comes after it
    assert "Traceback" not in ours


def test_a_signal_to_torchrun_saves_and_the_same_command_goes_on(small: Config) -> None:
    changes = {"optim.steps": 60, "engine.save_every": 1000}
    config = override(small, changes)
    process = start(config)
    end = time.monotonic() + 180
    while len(steps(config)) < 3:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    (checkpoint,) = (config.directory / "checkpoints").glob("step-????????")
    step = int(checkpoint.name.removeprefix("step-"))
    assert 3 <= step < 60
    assert err.count(f"step {step} is saved, and the same command goes on from it") == 1
    again = start(config)
    err = again.communicate(timeout=300)[1]
    assert again.returncode == 0, err
    assert steps(config) == list(range(1, 61))

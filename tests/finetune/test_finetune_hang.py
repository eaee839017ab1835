"""A fine-tuning whose loader no longer answers ends by its hang watch, and leaves its stacks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.colours import two_colours


def children(process: int) -> list[int]:
    """Return the processes that any thread of a process has started."""
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def test_a_fine_tuning_whose_decoding_process_is_stopped_ends_with_its_stacks(
    tmp_path: Path,
) -> None:
    dataset = two_colours(tmp_path / "colours")
    log = tmp_path / "log"
    words = [
        sys.executable, "-m", "maskedclip.finetune", "random", "--size=micro", "--image_size=32",
        f"--dataset={dataset}", "--epochs=1000", "--warmup_epochs=0", "--threads=1",
        "--hang_minutes=0.05", "--name=stuck", f"--out={tmp_path}",
    ]  # fmt: skip
    stopped: list[int] = []
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 120
        while "epoch 2/" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        while process.poll() is None and time.monotonic() < end:
            for child in set(children(process.pid)) - set(stopped):  # each split has its own
                os.kill(child, signal.SIGSTOP)
                stopped.append(child)
            time.sleep(0.1)
        assert process.returncode == 75
        (stacks,) = tmp_path.glob("stuck/hang/rank-0.*.txt")
        assert "finetune" in stacks.read_text()
    finally:
        process.kill()
        for child in stopped:
            os.kill(child, signal.SIGKILL)

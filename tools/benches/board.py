"""TensorBoard on many long runs: from a page that is opened to its first chart, and memory."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from benches.browser import Browser, wait_for_server
from benches.turns import OtherWork

from maskedclip.config import EngineConfig, MonitorConfig
from maskedclip.engine.curves import CURVES, GOODPUT, LOSSES, THROUGHPUT
from maskedclip.engine.step_log import POINTS, Recorder

PROMISED_S = 3.0
LOG_EVERY, HEALTH_EVERY = EngineConfig().log_every, MonitorConfig().health_every
# a card lists the last point of each run when it has drawn them
_FIRST_CHART = """[...document.querySelectorAll('scalar-card')]
  .some(card => card.innerText.includes('run0'))"""
_MODULES = ("encoder", "bridge", "decoder", "feature decoder", "text", "temperature")
_SHARES = tuple(f"{term}/{part}" for term in ("mim", "clip", "mfd") for part in _MODULES)
_PARTS = {"grad_norm": _MODULES, "update_ratio": _MODULES, "gradient_share": _SHARES}
_TIMES = ("productive", "waiting", "saving", "restarting", "replayed")
_USUAL = {  # in every row
    *(curve.name for curve in CURVES if curve.chart in (LOSSES, THROUGHPUT)),
    "lr", "grad_norm", "logit_scale", *(f"goodput/{name}" for name in _TIMES),
}  # fmt: skip


def board(runs: int = 256, steps: int = 100_000) -> dict[str, float | str]:
    """Return seconds to the first chart, at the start and when all is read, and peak memory.

    The runs are logged as a run of 100k steps is; they are copies of one, with names
    of their own. `first_chart_s` is from the page's opening, of a server that has just started;
    `warm_s` of one that has read all files, `warm_cpu_s` of the processors, browser and server.
    """
    with tempfile.TemporaryDirectory(prefix="board-") as name:
        size = _write_runs(Path(name), runs, steps)
        others = OtherWork()
        with _server(Path(name)) as (process, port), Browser() as browser:
            start = time.perf_counter()
            wait_for_server(port)
            server_s = time.perf_counter() - start
            first_s = _first_chart(browser, f"http://127.0.0.1:{port}/?first#timeseries")
            _wait_until_read(process.pid)
            read_s = time.perf_counter() - start
            before = _used_s(process.pid) + _used_s(browser.pid)
            warm_s = _first_chart(browser, f"http://127.0.0.1:{port}/?again#timeseries")
            warm_cpu_s = _used_s(process.pid) + _used_s(browser.pid) - before
            gib = sum(_peak_gib(pid) for pid in _tree(process.pid))
    return {
        "runs": runs, "steps": steps, "tags": len(_keys()),
        "files_gib": size / 2**30, "server_s": server_s, "first_chart_s": first_s,
        "all_read_s": read_s, "warm_s": warm_s, "warm_cpu_s": warm_cpu_s, "peak_gib": gib,
        "others_share": others.share(), "ratio": PROMISED_S / first_s,
    }  # fmt: skip


def _keys() -> list[str]:
    parts = _PARTS | {"goodput": _TIMES}
    keys = [curve.name for curve in CURVES if curve.chart != GOODPUT]
    return keys + [f"{name}/{part}" for name, own in parts.items() for part in own]


def _write_runs(root: Path, runs: int, steps: int) -> int:
    """Write the runs; return the bytes of all."""
    first, keys = root / "run000", _keys()
    first.mkdir()
    values_SK = np.random.default_rng(0).random((steps // LOG_EVERY, len(keys)))
    recorder = Recorder(first, 0, spacing=steps / POINTS)
    for number, value_K in enumerate(values_SK, 1):
        step = number * LOG_EVERY
        row = dict(zip(keys, value_K.tolist(), strict=True))
        if step % HEALTH_EVERY:
            row = {key: value for key, value in row.items() if key in _USUAL}
        recorder.record(step, row)
    recorder.close()
    (first / "metrics.jsonl").unlink()
    for number in range(1, runs):
        shutil.copytree(first, root / f"run{number:03d}")
    return runs * sum(path.stat().st_size for path in first.iterdir())


@contextmanager
def _server(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "tensorboard.main", "--logdir", str(root), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process, port
    finally:
        process.terminate()
        process.wait()


def _first_chart(browser: Browser, address: str) -> float:
    """Return the seconds until a card has drawn its curves and lists their last points.

    A page that was opened before there was any run is loaded again, as its reader would.
    """
    start = time.perf_counter()
    browser.open(address)
    while time.perf_counter() - start < 300:
        try:
            browser.wait_for(_FIRST_CHART, 20.0)
        except RuntimeError:
            browser.evaluate("location.reload()")
            continue
        return time.perf_counter() - start
    raise RuntimeError("no chart after 300 s")


def _wait_until_read(pid: int) -> None:
    """Return when the server and its reader have used little of a processor for two seconds."""
    before = _used_s(pid)
    while True:
        time.sleep(2.0)
        now = _used_s(pid)
        if now - before < 0.1:
            return
        before = now


def _used_s(pid: int) -> float:
    ticks = 0
    for one in _tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(one for word in path.read_text().split() for one in _tree(int(word)))]


def _peak_gib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) / 2**20

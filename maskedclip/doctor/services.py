"""Smaller things that a run or its user leans on: TensorBoard, its port, torch at all."""

import importlib.util
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskedclip.doctor.finding import Finding, failed, ok, warning
from maskedclip.doctor.versions import installed


def tensorboard(module: str = "tensorboard") -> Finding:
    """Judge whether curves can be written and shown."""
    if importlib.util.find_spec(module) is None:
        return failed(f"no {module}: runs cannot write their curves", "pip install tensorboard")
    return ok(f"{installed(module) or 'here'}; shows runs on this machine's own address alone")


def port(number: int) -> Finding:
    """Judge whether TensorBoard's port of the loopback address is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            return warning(
                f"127.0.0.1:{number} is taken ({error.strerror})",
                f"tensorboard --logdir runs --port {number + 1}",
            )
    return ok(f"127.0.0.1:{number} is free")


def devices() -> list[str]:
    """Return the names of the network devices."""
    return [name for _, name in socket.if_nameindex()]


def torch_loads(seen: Mapping[str, Any]) -> Finding:
    """Judge what the probe saw: torch, and whether NumPy's arrays reach it."""
    mend = "pip install --force-reinstall torch numpy"
    if "broken" in seen:
        return failed(f"torch does not load: {seen['broken']}", mend)
    if seen.get("complaint") or not seen["numpy"]:
        return failed(f"NumPy and torch do not fit: {seen.get('complaint') or 'wrong sums'}", mend)
    if not seen["gloo"]:
        return failed("torch has no gloo, which ranks agree by", mend)
    return ok(f"torch {seen['torch']}, with gloo")


def text_of(path: Path) -> str:
    """Return a file's text, empty where the system has no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""

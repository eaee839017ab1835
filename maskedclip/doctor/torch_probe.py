"""What torch sees of this machine, from a process of its own: loading CUDA may hang or crash.

python -m maskedclip.doctor.torch_probe < REQUEST   prints one JSON object; REQUEST is another,
with the run's configuration and GPUs, or empty.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from maskedclip.config import Config, flat, override
from maskedclip.doctor.load import busyness, patience
from maskedclip.doctor.outcome import Outcome, failed, ok, warning

_TIMEOUT_S = 90
_BUSY = 1.5  # processes a core from which on a late answer says nothing


def ask(request: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
    """Return what torch sees; only `broken`, with the reason, where torch does not load.

    Where it has not loaded in time there is `silent` in place of it, and `busy`, how busy the
    machine was.

    Args:
        request: empty, or config (as saved), nodes, gpus, gpu (as `plan` names it).
        timeout_s: None: longer where the machine is busy.
    """
    timeout_s = _TIMEOUT_S * patience() if timeout_s is None else timeout_s
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "maskedclip.doctor.torch_probe"],
            input=json.dumps(request), capture_output=True, text=True, check=False, cwd=root,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"silent": f"no answer in {timeout_s:.3g} s", "busy": busyness()}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ends with {done.returncode}"])[-1]
        return {"broken": last}
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen | {"complaint": abi_complaint(done.stderr)}


def loads(seen: Mapping[str, Any]) -> Outcome:
    """Judge whether torch loads, and whether it exchanges arrays with NumPy."""
    fix = "pip install --force-reinstall torch numpy"
    if "silent" in seen:
        if seen["busy"] > _BUSY:
            return warning(
                f"torch did not load in time ({seen['silent']}), with {seen['busy']:.1f} processes "
                f"for each core: nothing is known of it",
                "run it again when the machine is less busy, or in a job",
            )
        where = "run python -X faulthandler -c 'import torch; torch.cuda.is_available()'"
        return failed(
            f"torch does not load: {seen['silent']} on a machine that is not busy",
            f"{where}, and see whether the environment's file system or the driver hangs",
        )
    if "broken" in seen:
        return failed(f"torch does not load: {seen['broken']}", fix)
    if seen.get("complaint") or not seen["numpy"]:
        return failed(f"NumPy and torch do not fit: {seen.get('complaint') or 'wrong sums'}", fix)
    if not seen["gloo"]:
        return failed("torch has no gloo, by which ranks on CPUs communicate", fix)
    return ok(f"torch {seen['torch']}, with gloo")


def abi_complaint(stderr: str) -> str:
    """Return NumPy's line on a module that was compiled for another NumPy, empty if none."""
    lines = [line.strip() for line in stderr.splitlines()]
    return next(
        (line for line in lines if "compiled using NumPy" in line or "numpy.dtype" in line), ""
    )


def _seen() -> dict[str, Any]:
    import warnings

    import numpy as np
    import torch
    import torch.distributed as dist

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    count = torch.cuda.device_count() if available else 0
    devices = []
    for number in range(count):
        device = torch.cuda.get_device_properties(number)
        devices.append({"name": device.name, "capability": [device.major, device.minor],
                        "memory": device.total_memory})  # fmt: skip
    has_nccl = dist.is_available() and dist.is_nccl_available()
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "available": available,
        "why": str(caught[0].message).splitlines()[0] if caught else "",
        "archs": torch.cuda.get_arch_list() if available else [],
        "devices": devices,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else "",  # type: ignore[attr-defined]
        "gloo": dist.is_available() and dist.is_gloo_available(),
        "numpy": float(torch.from_numpy(np.ones(3)).sum()) == 3,
    }


def _cost(request: Mapping[str, Any], sizes: Iterable[float]) -> dict[str, Any]:
    """Plan the run on the GPU that is named, or on the smallest here where that has less.

    Args:
        sizes: bytes of the GPUs here.
    """
    from maskedclip.plan.cost import plan, remedy

    config = override(Config(), flat(request["config"]))
    try:
        cost = plan(
            config, nodes=request["nodes"], gpus=request["gpus"], gpu=request["gpu"],
            images=(config.data.paired_batch or 1, config.data.unpaired_batch or 1),
            smallest=min(sizes, default=None),
        )  # fmt: skip
    except ValueError as error:
        return {"error": str(error)}
    return {
        "gpu": cost.gpu,
        "memory": cost.memory.total,
        "usable": cost.usable_bytes,
        "disk": cost.disk_bytes,
        "remedy": "" if cost.fits else remedy(cost),
    }


if __name__ == "__main__":
    request = json.loads(sys.stdin.read() or "{}")
    answer = _seen()
    if request:
        answer["cost"] = _cost(request, [device["memory"] for device in answer["devices"]])
    print(json.dumps(answer))  # noqa: T201 - for the parent

"""What torch sees of this machine, told by a process of its own: loading CUDA may hang or crash.

python -m maskedclip.doctor_probe < REQUEST   prints one JSON object; REQUEST is another, with the
run's configuration and cards, or empty.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskedclip.config import Config, flat, override

_TIMEOUT_S = 90


def ask(request: Mapping[str, Any], timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """Return what torch sees; `broken` is in it, with the reason, where torch does not load.

    Args:
        request: empty, or config (as saved), nodes, gpus, gpu (name of a card).
    """
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "maskedclip.doctor.torch_probe"],
            input=json.dumps(request), capture_output=True, text=True, check=False, cwd=root,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"broken": f"no answer in {timeout_s:g} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ends with {done.returncode}"])[-1]
        return {"broken": last}
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen | {"complaint": abi_complaint(done.stderr)}


def abi_complaint(words: str) -> str:
    """Return what NumPy says of a module that was compiled for another one, empty if nothing."""
    lines = [line.strip() for line in words.splitlines()]
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
        found = torch.cuda.get_device_properties(number)
        devices.append({"name": found.name, "capability": [found.major, found.minor],
                        "memory": found.total_memory})  # fmt: skip
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


def _cost(request: Mapping[str, Any]) -> dict[str, Any]:
    from maskedclip.plan.cost import plan

    config = override(Config(), flat(request["config"]))
    try:
        found = plan(
            config, nodes=request["nodes"], gpus=request["gpus"], gpu=request["gpu"],
            images=(config.data.paired_batch or 1, config.data.unpaired_batch or 1),
        )  # fmt: skip
    except ValueError as error:
        return {"error": str(error)}
    return {
        "gpu": found.gpu,
        "memory": found.memory.total,
        "usable": found.usable_bytes,
        "disk": found.disk_bytes,
        "snapshot": found.snapshot_bytes,
    }


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read() or "{}")
    answer = _seen() | ({"cost": _cost(asked)} if asked else {})
    print(json.dumps(answer))  # noqa: T201 - for the parent

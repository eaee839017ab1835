"""The GPUs, their driver and NCCL, as nvidia-smi and torch each see them."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from maskedclip.doctor.finding import Finding, absent, failed, gigabytes, ok, warning
from maskedclip.engine.gpu_specs import GPUS

# docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1
_DRIVERS = {11: 450, 12: 525, 13: 580}
_TIMEOUT_S = 8
_FULL = 0.9


class Card(NamedTuple):
    """A GPU as nvidia-smi lists it."""

    name: str
    memory_bytes: float
    driver: str


def cards() -> tuple[list[Card], str]:
    """Return the GPUs that nvidia-smi lists, and what it complains of."""
    if not shutil.which("nvidia-smi"):
        return [], ""
    asked = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *asked], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return [], f"nvidia-smi does not answer in {_TIMEOUT_S} s"
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
    found = [Card(r[0], float(r[1]) * 2**20, r[2]) for r in rows if len(r) == 3 and r[1].isdigit()]
    said = (done.stdout + done.stderr).strip().splitlines()
    return found, said[-1] if said and (done.returncode or not found) else ""


def present(listed: Sequence[Card], complaint: str, wanted: int | None, slurm: bool) -> Finding:
    """Judge the GPUs of this machine by how many a node of the run has (None: not said)."""
    if complaint:
        return failed(
            f"nvidia-smi: {complaint}", "mend the driver (admin), or use another node: --exclude"
        )
    names = ", ".join(dict.fromkeys(card.name for card in listed))
    said = f"{len(listed)} here" + (f" ({names})" if names else "")
    if wanted and len(listed) < wanted:
        if slurm:
            return absent(f"{said}; look on a node: srun --gpus={wanted} python tools/doctor.py")
        return failed(f"{said}, {wanted} wanted", f"--gpus={len(listed)}, or a machine with more")
    if not listed:
        return absent("none here: runs use the processor")
    return ok(said)


def visible(listed: Sequence[Card], environment: Mapping[str, str] = os.environ) -> Finding:
    """Judge CUDA_VISIBLE_DEVICES."""
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if not listed:
        return absent("no GPU here")
    if value is None:
        return ok("CUDA_VISIBLE_DEVICES is not set: all are seen")
    chosen = [word.strip() for word in value.split(",") if word.strip()]
    lost = [word for word in chosen if word.isdigit() and int(word) >= len(listed)]
    if not chosen or lost:
        return failed(
            f"CUDA_VISIBLE_DEVICES={value!r}: hides GPUs (there are {len(listed)})",
            "unset CUDA_VISIBLE_DEVICES, or name those that are there",
        )
    return ok(f"CUDA_VISIBLE_DEVICES={value}")


def driver(listed: Sequence[Card], probe: Mapping[str, Any]) -> Finding:
    """Judge the driver by the CUDA that torch was built for, and whether torch reaches it."""
    if not listed:
        return absent("no GPU here")
    cuda, version = probe.get("cuda"), listed[0].driver
    if not cuda:
        return failed(
            f"torch {probe.get('torch')} is built without CUDA, and {len(listed)} GPUs are here",
            "pip install --force-reinstall torch torchvision (a CUDA build: pytorch.org)",
        )
    least = _DRIVERS.get(int(cuda.split(".")[0]))
    if least and int(version.split(".")[0]) < least:
        return failed(
            f"driver {version}; torch's CUDA {cuda} needs {least} or newer",
            "update the driver (admin), or install a torch built for an older CUDA",
        )
    if not probe.get("available"):
        return failed(
            f"driver {version}, but torch reaches no GPU: {probe.get('why') or 'it does not say'}",
            "run nvidia-smi; restart the container with --gpus all; see CUDA_VISIBLE_DEVICES",
        )
    return ok(f"driver {version}, torch's CUDA {cuda}")


def kernels(probe: Mapping[str, Any], precision: str) -> Finding:
    """Judge the compute capability by torch's kernels and by the precision of the run."""
    devices = probe.get("devices") or []
    if not devices:
        return absent("torch reaches no GPU here")
    built = [re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", arch) for arch in probe["archs"]]
    known = [(int(m[1]), int(m[2])) for m in built if m]
    for device in devices:
        major, minor = device["capability"]
        if not any(have[0] == major and have[1] <= minor for have in known):
            archs = ", ".join(probe["archs"])
            return failed(
                f"{device['name']} ({major}.{minor}): torch has kernels for {archs}",
                "install a torch built for this card (pytorch.org), or use newer cards",
            )
        if (major, minor) < (8, 0):
            said = f"{device['name']} ({major}.{minor}) does not multiply bf16"
            if precision == "bf16":
                return failed(said, "--engine.precision=auto")
            return warning(f"{said}: runs compute in fp32", "choose a card from A100 on")
    first = devices[0]
    return ok(f"compute capability {'.'.join(map(str, first['capability']))}, bf16")


def nccl(probe: Mapping[str, Any], wanted: int | None) -> Finding:
    """Judge whether torch has NCCL, which ranks on GPUs talk by."""
    if not wanted and not probe.get("devices"):
        return absent("no GPU here, none asked for: ranks talk by gloo")
    if not probe.get("nccl"):
        return failed(
            f"torch {probe.get('torch')} has no NCCL",
            "pip install --force-reinstall torch (a CUDA build: pytorch.org)",
        )
    return ok(f"NCCL {probe['nccl']}")


def card_of(name: str) -> str:
    """Return our name of the card that CUDA calls so, empty where it is not known."""
    words = f" {name.replace('-', ' ')} "
    sizes = [key for key, gpu in GPUS.items() if f" {gpu.part_of_name} " in words]
    return next((key for key in sizes if key.split("-")[1] in name), sizes[0] if sizes else "")


def fits(cost: Mapping[str, Any] | None, why: str, smallest: float | None) -> Finding:
    """Judge the plan's memory by the card that it names and by the smallest one here.

    Args:
        cost: what the probe planned, None where it did not, `why` then says so.
        smallest: bytes of the smallest GPU here, if there is one.
    """
    if cost is None:
        return absent(why)
    if "error" in cost:
        return failed(str(cost["error"]), "change that field, or --nodes and --gpus")
    usable = min(cost["usable"], smallest or cost["usable"])
    said = f"{gigabytes(cost['memory'])} of {gigabytes(usable)} on {cost['gpu']}"
    mend = "more --gpus, --optim.accumulate=2 or --engine.recompute=true"
    if cost["memory"] > usable:
        return failed(f"{said}: does not fit", mend)
    return ok(said) if cost["memory"] <= _FULL * usable else warning(f"{said}: tight", mend)

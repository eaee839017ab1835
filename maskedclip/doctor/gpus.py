"""The GPUs, their driver and NCCL, as nvidia-smi and torch each see them."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from maskedclip.doctor.load import patience
from maskedclip.doctor.outcome import Outcome, failed, gigabytes, not_applicable, ok, warning
from maskedclip.engine.gpu_specs import GPUS, LEAST_DRIVER, OLDER_BUILD

_TIMEOUT_S = 8


class ListedGpu(NamedTuple):
    """A GPU as nvidia-smi lists it."""

    name: str
    driver: str


def list_gpus() -> tuple[list[ListedGpu], str]:
    """Return the GPUs that nvidia-smi lists, and its complaint, empty where there is none."""
    if not shutil.which("nvidia-smi"):
        return [], ""
    limit_s = _TIMEOUT_S * patience()
    query = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            ["nvidia-smi", *query], capture_output=True, text=True, check=False, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return [], f"nvidia-smi does not answer in {limit_s:.3g} s"
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
    listed = [ListedGpu(*row) for row in rows if len(row) == 2 and row[1][:1].isdigit()]
    lines = (done.stdout + done.stderr).strip().splitlines()
    return listed, lines[-1] if lines and (done.returncode or not listed) else ""


def present(
    listed: Sequence[ListedGpu], complaint: str, wanted: int | None, slurm: bool
) -> Outcome:
    """Judge the GPUs of this machine by how many a node of the run has (None: not given)."""
    if complaint:
        return failed(
            f"nvidia-smi: {complaint}", "repair the driver (admin), or use another node: --exclude"
        )
    names = ", ".join(dict.fromkeys(gpu.name for gpu in listed))
    message = f"{len(listed)} here" + (f" ({names})" if names else "")
    if wanted and len(listed) < wanted:
        if slurm:
            return not_applicable(
                f"{message}; check on a node: srun --gpus={wanted} python tools/doctor.py"
            )
        return failed(
            f"{message}, {wanted} wanted", f"--gpus={len(listed)}, or a machine with more"
        )
    if not listed:
        return not_applicable("none here: runs use the processor")
    return ok(message)


def visible(listed: Sequence[ListedGpu], environment: Mapping[str, str] = os.environ) -> Outcome:
    """Judge CUDA_VISIBLE_DEVICES."""
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if not listed:
        return not_applicable("no GPU here")
    if value is None:
        return ok("CUDA_VISIBLE_DEVICES is not set: all are visible")
    chosen = [word.strip() for word in value.split(",") if word.strip()]
    missing = [word for word in chosen if word.isdigit() and int(word) >= len(listed)]
    if not chosen or missing:
        return failed(
            f"CUDA_VISIBLE_DEVICES={value!r}: hides GPUs (there are {len(listed)})",
            "name GPUs that exist in CUDA_VISIBLE_DEVICES, or unset it",
        )
    return ok(f"CUDA_VISIBLE_DEVICES={value}")


def driver(listed: Sequence[ListedGpu], probe: Mapping[str, Any]) -> Outcome:
    """Judge the driver by the CUDA that torch was built for, and whether torch reaches it."""
    if not listed:
        return not_applicable("no GPU here")
    if _unknown(probe):
        return not_applicable("torch did not load, or not in time")
    cuda, version = probe.get("cuda"), listed[0].driver
    if not cuda:
        return failed(
            f"torch {probe.get('torch')} is built without CUDA, and {len(listed)} GPUs are here",
            "pip install --force-reinstall torch torchvision    # a CUDA build: pytorch.org",
        )
    least = LEAST_DRIVER.get(int(cuda.split(".")[0]))
    if least and int(version.split(".")[0]) < least:
        return failed(
            f"driver {version}; torch's CUDA {cuda} needs {least} or newer",
            f"update the driver (admin), or {OLDER_BUILD}",
        )
    if not probe.get("available"):
        return failed(
            f"driver {version}, but torch reaches no GPU: {probe.get('why') or 'it does not say'}",
            "run nvidia-smi; restart the container with --gpus all; see CUDA_VISIBLE_DEVICES",
        )
    return ok(f"driver {version}, torch's CUDA {cuda}")


def kernels(probe: Mapping[str, Any], precision: str) -> Outcome:
    """Judge the compute capability by torch's kernels and by the precision of the run."""
    devices = probe.get("devices") or []
    if not devices:
        return not_applicable("torch reaches no GPU here")
    built = [re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", arch) for arch in probe["archs"]]
    known = [(int(m[1]), int(m[2])) for m in built if m]
    for device in devices:
        major, minor = device["capability"]
        if not any(have[0] == major and have[1] <= minor for have in known):
            archs = ", ".join(probe["archs"])
            return failed(
                f"{device['name']} ({major}.{minor}): torch has kernels for {archs}",
                "install a torch built for this GPU (pytorch.org), or use newer GPUs",
            )
        if (major, minor) < (8, 0):
            message = f"{device['name']} ({major}.{minor}) has no bf16"
            if precision == "bf16":
                return failed(message, "--engine.precision=auto")
            return warning(f"{message}: runs compute in fp32", "choose an A100 or newer")
    first = devices[0]
    return ok(f"compute capability {'.'.join(map(str, first['capability']))}, bf16")


def nccl(probe: Mapping[str, Any], wanted: int | None) -> Outcome:
    """Judge whether torch has NCCL, by which ranks on GPUs communicate."""
    if not wanted and not probe.get("devices"):
        return not_applicable("no GPU here, none asked for: ranks communicate by gloo")
    if _unknown(probe):
        return not_applicable("torch did not load, or not in time")
    if not probe.get("nccl"):
        return failed(
            f"torch {probe.get('torch')} has no NCCL",
            "pip install --force-reinstall torch    # a CUDA build: pytorch.org",
        )
    return ok(f"NCCL {probe['nccl']}")


def _unknown(probe: Mapping[str, Any]) -> bool:
    return "broken" in probe or "silent" in probe


def planned_name(name: str) -> str:
    """Return the name under which `plan` knows a GPU of CUDA's name, empty where it does not."""
    words = f" {name.replace('-', ' ')} "
    sizes = [key for key, gpu in GPUS.items() if f" {gpu.part_of_name} " in words]
    return next((key for key in sizes if key.split("-")[1] in name), sizes[0] if sizes else "")


def fits(cost: Mapping[str, Any] | None, why: str) -> Outcome:
    """Judge the plan's memory by the GPU that it names, or by the smallest one here.

    Args:
        cost: what the probe planned, None where it did not; `why` then says so.
    """
    if cost is None:
        return not_applicable(why)
    if "error" in cost:
        return failed(str(cost["error"]), "change that field, or --nodes and --gpus")
    message = f"{gigabytes(cost['memory'])} of {gigabytes(cost['usable'])} on {cost['gpu']}"
    if cost["memory"] > cost["usable"]:
        return failed(f"{message}: does not fit", cost["remedy"])
    return warning(f"{message}: tight", cost["remedy"]) if cost["remedy"] else ok(message)

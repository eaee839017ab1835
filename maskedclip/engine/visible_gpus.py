"""GPUs of this process: their names, and why there are none where there should be.

torch is loaded where there is a driver alone: commands that only start others ask here.
"""

import ctypes
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from maskedclip.engine.gpu_specs import LEAST_DRIVER, OLDER_BUILD

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
_PROCESSOR = "run on the processor: --gpus 0, or CUDA_VISIBLE_DEVICES= before the command"
_KERNEL = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that the driver holds
_AMD = Path("/dev/kfd")  # what AMD's driver is asked by
# set where GPUs were asked for: their indexes, or their number
_SLURM = {"SLURM_JOB_GPUS": "", "SLURM_STEP_GPUS": "", "SLURM_GPUS_ON_NODE": "0"}
_HIDDEN = ("", "-1")  # CUDA_VISIBLE_DEVICES of somebody who wants the processor


def gpu_names() -> list[str]:
    """Return the GPUs that torch sees as CUDA_VISIBLE_DEVICES names them: 2, GPU-8f2c, MIG-41be."""
    if not ("torch" in sys.modules or _has_driver()):
        return []  # as torch would say
    import torch

    count = torch.cuda.device_count()
    words = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    named = [word.strip() for word in words if word.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def _has_driver() -> bool:
    """Return whether NVIDIA's driver or AMD's is here: without one torch sees no GPU."""
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        return True
    return _AMD.exists()


def compute_device() -> "torch.device":
    """Return this rank's GPU, or the processor of a machine from which nobody expects one.

    Raises RuntimeError where GPUs were asked for, or are here, and torch sees none or too few.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        if reason := expected():
            raise RuntimeError(f"{reason}, and torch sees no GPU: {_why()}")
        return torch.device("cpu")
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if rank >= count > 1:
        raise RuntimeError(
            f"local rank {rank}: torch sees {count} GPUs here, and a rank needs its own; start "
            f"{count} ranks a node"
        )
    # SLURM may show a task its own GPU alone, and then the only index is 0
    return torch.device("cuda", rank if count > 1 else 0)


def inference_device() -> "torch.device":
    """Return the GPU where torch sees one, else the processor; warns where one is expected."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if reason := expected():
        logger.warning(
            "%s, but torch sees no GPU, and the processor works alone: %s", reason, _why()
        )
    return torch.device("cpu")


def expected(environment: Mapping[str, str] = os.environ, kernel: Path = _KERNEL) -> str:
    """Return what lets one expect a GPU here, "" where nothing does.

    Args:
        kernel: where the driver lists its GPUs.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in _HIDDEN:
        return ""
    for name, none in _SLURM.items():
        if environment.get(name, none) != none:
            return f"SLURM has given GPUs ({name}={environment[name]})"
    if visible is not None and visible != "NoDevFiles":  # SLURM's word for none
        return f"CUDA_VISIBLE_DEVICES={visible}"
    count = len(list(kernel.iterdir())) if kernel.is_dir() else 0
    return f"the driver of this machine has {count} GPUs" if count else ""


def _why() -> str:
    """Return torch's reason, in its own or the driver's words, and what to do."""
    import torch

    cuda = torch.version.cuda
    if not cuda:
        fix = "pip install --force-reinstall 'torch>=2.13,<2.15' torchvision"
        return f"torch {torch.__version__} is built without CUDA; {fix}, or {_PROCESSOR}"
    try:
        torch.cuda.init()
        words = "it does not say why"
    except (RuntimeError, AssertionError) as error:
        words = str(error).splitlines()[0].rstrip(". ")
    least = LEAST_DRIVER.get(int(cuda.split(".")[0]))
    needs = f" needs driver {least} or newer (nvidia-smi shows yours)" if least else ""
    older = f"for an older one: {OLDER_BUILD}"
    return f"{words}. torch {torch.__version__}{needs}; {older}; or {_PROCESSOR}"

"""GPU specifications from the makers' data sheets, for planning and for MFU."""

import difflib
from typing import NamedTuple


class Gpu(NamedTuple):
    """One GPU; FLOPS are dense, without sparsity, bf16 with fp32 accumulation."""

    part_of_name: str  # of CUDA's device name
    memory_gb: int  # as sold
    usable_gib: float  # as CUDA reports it
    bf16_flops: float  # a second; 0 without bf16 units
    fp32_flops: float  # a second, without TF32
    watts: int  # of the board
    link_gb: float  # a second, both directions, to the GPUs of the node


# SXM boards with NVLink where there are such; PCIe 4.0 x16 (64 GB/s) for those without NVLink
GPUS = {
    "v100-16": Gpu("V100", 16, 15.77, 0, 15.7e12, 300, 300),
    "v100-32": Gpu("V100", 32, 31.74, 0, 15.7e12, 300, 300),
    "a100-40": Gpu("A100", 40, 39.39, 312e12, 19.5e12, 400, 600),
    "a100-80": Gpu("A100", 80, 79.14, 312e12, 19.5e12, 400, 600),
    # before the H100 of SXM boards, of whose name theirs are longer
    "h100pcie-80": Gpu("H100 PCIe", 80, 79.18, 756e12, 51e12, 350, 128),
    "h100nvl-94": Gpu("H100 NVL", 94, 93.1, 835e12, 60e12, 400, 600),
    "h100-80": Gpu("H100", 80, 79.10, 989e12, 67e12, 700, 900),
    "h200-141": Gpu("H200", 141, 139.7, 989e12, 67e12, 700, 900),
    "l40s-48": Gpu("L40S", 48, 44.39, 362e12, 91.6e12, 350, 64),
    "a40-48": Gpu("A40", 48, 44.34, 149.7e12, 37.4e12, 300, 64),
    "a6000-48": Gpu("RTX A6000", 48, 47.4, 154.8e12, 38.7e12, 300, 64),
    "a10-24": Gpu("A10", 24, 22.0, 125e12, 31.2e12, 150, 64),
    "l4-24": Gpu("L4", 24, 22.0, 121e12, 30.3e12, 72, 64),
    "rtx3090-24": Gpu("RTX 3090", 24, 23.5, 71e12, 35.6e12, 350, 64),
    "rtx4090-24": Gpu("RTX 4090", 24, 23.5, 165.2e12, 82.6e12, 450, 64),
}


# docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
OLDER_BUILD = (
    "pip install 'torch>=2.13,<2.15' torchvision --index-url https://download.pytorch.org/whl/cu126"
)


def find_gpu(name: str, smallest: float | None = None) -> Gpu:
    """Return the GPU of that name; ValueError, with the nearest ones, where it is not known.

    Args:
        smallest: bytes of the smallest one there, if they are known: a slice has less memory than
            the data sheet says.
    """
    key = name.lower()
    if key not in GPUS:
        same_chip = [known for known in GPUS if known.startswith(f"{key}-")]
        near = same_chip or difflib.get_close_matches(key, GPUS, n=1) or list(GPUS)
        raise ValueError(f"gpu {name!r} is not known; did you mean {' or '.join(near)}?")
    gpu = GPUS[key]
    return (
        gpu if smallest is None else gpu._replace(usable_gib=min(gpu.usable_gib, smallest / 2**30))
    )


def bf16_peak(device_name: str) -> float | None:
    """Return the bf16 FLOPS of a device by CUDA's name for it; None where it is not known.

    Of a slice (MIG) nothing is known: it has a part of the card's.
    """
    if " MIG " in f" {device_name} ":
        return None
    words = f" {device_name.replace('-', ' ')} "  # whole words: A100 is no A10, L40S no L4
    for gpu in GPUS.values():
        if f" {gpu.part_of_name} " in words and gpu.bf16_flops:
            return gpu.bf16_flops
    return None

"""Peak FLOPS of a device, of which a run reaches a share: model FLOPS utilisation (MFU)."""

import functools
import time

import torch

from maskedclip.engine.gpu_specs import bf16_peak

_ROUNDS = 5


@functools.cache
def peak_flops(device: torch.device, compute: torch.dtype) -> float:
    """Return the peak FLOPS of one device: the data sheet's for known GPUs, else measured.

    The measurement takes a fraction of a second, once a process; on a CPU it uses its threads.
    """
    if device.type == "cuda" and compute == torch.bfloat16:
        known = bf16_peak(torch.cuda.get_device_name(device))
        if known is not None:
            return known
    return product_flops(device, compute, 8192 if device.type == "cuda" else 1024)


def product_flops(device: torch.device, compute: torch.dtype, size: int) -> float:
    """Return the FLOPS of products of size x size matrices, the best of a few."""
    left, right = (torch.randn(size, size, device=device).to(compute) for _ in range(2))
    best = float("inf")
    for _ in range(_ROUNDS + 1):  # the first one warms up
        start = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    assert product.shape == (size, size)
    return 2 * size**3 / best

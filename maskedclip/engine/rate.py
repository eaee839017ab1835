"""How fast a device can multiply, to say what share of that a run reaches (MFU)."""

import time

import torch

# dense, without sparsity, from the vendors' data sheets; bf16 FLOP a second
_PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "V100": 125e12}
_ROUNDS = 5


def peak_flops(device: torch.device, compute: torch.dtype) -> float:
    """Return FLOP a second of one device: the data sheet's for known GPUs, else as measured.

    The measurement is the best of some square products in the type of the run, a fraction of a
    second; on a processor it uses this process's threads.
    """
    if device.type == "cuda" and compute == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, peak in _PEAKS.items():
            if part in name:
                return peak
    size = 8192 if device.type == "cuda" else 1024
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

"""The learning rate and other values, pure functions of the step."""

import math


def warmup_cosine(step: float, warmup: float, total: float) -> float:
    """Return the share of the peak at `step`: linear from 0, then half a cosine to 0 at `total`.

    MAE's util/lr_sched.py with the epoch counted in fractions: exactly 0 at step 0.
    """
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))


def cosine(first: float, last: float, share: float) -> float:
    """Return the value at a `share` of the way from `first` to `last` along half a cosine."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))

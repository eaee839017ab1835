"""Divide samples of several labels each: iterative stratification (Sechidis et al., 2011).

Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data, ECML PKDD 2011. The rarest
label that is left is dealt out first, each of its units to the side that lacks more of it. Here a
unit is a patient, or an image with its copies; two units that the rule does not tell apart are in
an order drawn from a hash, so that the result is the same on every machine.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

Labels = Sequence[Hashable]  # of one image; empty where it has none


class _Side(NamedTuple):
    """How many more images of each label a side wants, and of all."""

    of_label: dict[Hashable, float]
    of_all: list[float]

    def take(self, counts: Counter[Hashable], images: int) -> None:
        for label, count in counts.items():
            self.of_label[label] -= count
        self.of_all[0] -= images


def chosen_units(
    images_of: Mapping[str, Sequence[Labels]], share: float, rank: Callable[[str], int]
) -> set[str]:
    """Return the units that hold ceil(share * n) of the n images of each label, as near as may be.

    Args:
        images_of: of each unit, the labels of its images.
        rank: the order of units that the rule does not tell apart.

    A label of one unit alone stays out of the chosen part. Images without a label are divided as
    if that were one.
    """
    counts_of = {
        unit: Counter(label for labels in images for label in (labels or [None]))
        for unit, images in images_of.items()
    }
    total: Counter[Hashable] = Counter()
    units_with: Counter[Hashable] = Counter()
    for counts in counts_of.values():
        total.update(counts)
        units_with.update(counts.keys())
    wanted = {
        label: min(math.ceil(round(share * count, 6)), count - 1) if units_with[label] > 1 else 0
        for label, count in total.items()
    }
    images = sum(map(len, images_of.values()))
    part = _Side({**wanted}, [share * images])
    rest = _Side({label: total[label] - wanted[label] for label in total}, [(1 - share) * images])
    chosen: set[str] = set()
    waiting = sorted(counts_of, key=lambda unit: (rank(unit), unit))
    left = Counter(total)
    while waiting:
        # the images without a label last: any of them may fill either side
        scarce = min(
            (label for label in left if left[label]),
            key=lambda label: (label is None, left[label], str(label)),
        )
        dealt = [unit for unit in waiting if scarce in counts_of[unit]]
        waiting = [unit for unit in waiting if scarce not in counts_of[unit]]
        # units of several images first: the last one can then be a small one
        for unit in sorted(dealt, key=lambda unit: -len(images_of[unit])):
            side = max((rest, part), key=lambda side: (side.of_label[scarce], side.of_all[0]))
            side.take(counts_of[unit], len(images_of[unit]))
            chosen.update([unit] if side is part else [])
            left.subtract(counts_of[unit])
    return chosen

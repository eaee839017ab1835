"""How a stored photograph looks, in four numbers: enough to find the ones a person should see."""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Any, NamedTuple

import cv2
import numpy as np

from maskedclip.data.photographs.field_of_view import reduced

SHOWN = 6  # of each kind
_LIT = 16  # of 255: what is darker is frame


class Look(NamedTuple):
    """What can be wrong with a photograph; each number falls as it gets worse."""

    bright: float  # mean of the brightest channel in the field, 0..1
    unclipped: float  # share of the field that is not at the top of the scale
    sharp: float  # local contrast of the green channel, relative to its mean
    whole: float  # share of a full disc that is lit


REASONS = ("dark", "over-exposed", "blurred", "cut off")  # in the order of Look's fields


def look_of(image_HWC: np.ndarray) -> Look:
    """Return the look of a square of the field of view."""
    red_HW, green_HW, blue_HW = cv2.split(reduced(image_HWC, 128))
    top_HW = cv2.max(cv2.max(red_HW, green_HW), blue_HW)
    lit_HW = (top_HW > _LIT).astype(np.uint8)
    area = cv2.countNonZero(lit_HW)
    if not area:
        return Look(0.0, 1.0, 0.0, 0.0)
    clipped = cv2.countNonZero((top_HW >= 250).astype(np.uint8))
    detail_HW = green_HW.astype(np.float32) - cv2.GaussianBlur(green_HW, (0, 0), 2)
    # away from the edge of the field, which is the sharpest line in any photograph
    inside_HW = cv2.erode(lit_HW, np.ones((9, 9), np.uint8))
    inside_HW = inside_HW if cv2.countNonZero(inside_HW) else lit_HW
    _, spread = cv2.meanStdDev(detail_HW, mask=inside_HW)
    level = cv2.mean(green_HW, mask=inside_HW)[0]
    disc = np.pi / 4 * lit_HW.size
    found = (
        cv2.mean(top_HW, mask=lit_HW)[0] / 255,
        1 - clipped / area,
        float(spread[0, 0]) / (level + 8),
        min(1.0, area / disc),
    )
    return Look(*(round(value, 4) for value in found))


def candidates(looks: Iterable[tuple[str, Look]]) -> list[tuple[str, Look]]:
    """Return the few that `worst` could choose: of many parts, it needs these alone."""
    everyone = list(looks)
    kept: dict[str, Look] = {}
    for which in range(len(REASONS)):
        kept |= nsmallest(len(REASONS) * SHOWN, everyone, key=_by(which))
    return sorted(kept.items())


def _by(which: int) -> Callable[[tuple[str, Look]], tuple[float, str]]:
    return lambda entry: (entry[1][which], entry[0])


def worst(looks: Iterable[tuple[str, Look]]) -> list[dict[str, Any]]:
    """Return the darkest, the most over-exposed, the most blurred and the most cut photographs.

    `SHOWN` of each at most, each photograph once, the worst first; the same in any order.
    """
    everyone = candidates(looks)
    found: dict[str, dict[str, Any]] = {}
    for which, reason in enumerate(REASONS):
        ranked = sorted(everyone, key=_by(which))
        fresh = [(key, look[which]) for key, look in ranked if key not in found][:SHOWN]
        found |= {key: {"key": key, "reason": reason, "value": value} for key, value in fresh}
    return list(found.values())

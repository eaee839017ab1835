"""Image quality in four numbers: enough to choose the photographs of a contact sheet."""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Any, NamedTuple

import cv2
import numpy as np

from maskedclip.data.photographs.field_of_view import reduced

SHOWN = 6  # of each kind
_LIT = 16  # of 255: what is darker is frame


class Quality(NamedTuple):
    """Quality of a photograph; every number falls as it gets worse."""

    bright: float  # mean of the brightest channel in the field, 0..1
    unclipped: float  # share of the field that is not at the top of the scale
    sharp: float  # local contrast of the green channel, relative to its mean
    whole: float  # share of a full disc that is lit


REASONS = ("dark", "over-exposed", "blurred", "cut off")  # in the order of Quality's fields


def quality_of(image_HWC: np.ndarray) -> Quality:
    """Return the quality of a square of the field of view."""
    red_HW, green_HW, blue_HW = cv2.split(reduced(image_HWC, 128))
    top_HW = cv2.max(cv2.max(red_HW, green_HW), blue_HW)
    lit_HW = (top_HW > _LIT).astype(np.uint8)
    area = cv2.countNonZero(lit_HW)
    if not area:
        return Quality(0.0, 1.0, 0.0, 0.0)
    clipped = cv2.countNonZero((top_HW >= 250).astype(np.uint8))
    detail_HW = green_HW.astype(np.float32) - cv2.GaussianBlur(green_HW, (0, 0), 2)
    # away from the edge of the field, which is the sharpest line in any photograph
    inside_HW = cv2.erode(lit_HW, np.ones((9, 9), np.uint8))
    inside_HW = inside_HW if cv2.countNonZero(inside_HW) else lit_HW
    _, spread = cv2.meanStdDev(detail_HW, mask=inside_HW)
    level = cv2.mean(green_HW, mask=inside_HW)[0]
    disc = np.pi / 4 * lit_HW.size
    values = (
        cv2.mean(top_HW, mask=lit_HW)[0] / 255,
        1 - clipped / area,
        float(spread[0, 0]) / (level + 8),
        min(1.0, area / disc),
    )
    return Quality(*(round(value, 4) for value in values))


def candidates(qualities: Iterable[tuple[str, Quality]]) -> list[tuple[str, Quality]]:
    """Return the few that `worst` can choose from: of every shard it needs these alone."""
    ranked = list(qualities)
    kept: dict[str, Quality] = {}
    for which in range(len(REASONS)):
        kept |= nsmallest(len(REASONS) * SHOWN, ranked, key=_by(which))
    return sorted(kept.items())


def _by(which: int) -> Callable[[tuple[str, Quality]], tuple[float, str]]:
    return lambda entry: (entry[1][which], entry[0])


def worst(qualities: Iterable[tuple[str, Quality]]) -> list[dict[str, Any]]:
    """Return the darkest, the most over-exposed, the most blurred and the most cut photographs.

    `SHOWN` of each at most, no photograph twice, the worst first; independent of the order.
    """
    chosen = candidates(qualities)
    entries: dict[str, dict[str, Any]] = {}
    for which, reason in enumerate(REASONS):
        ranked = sorted(chosen, key=_by(which))
        fresh = [(key, quality[which]) for key, quality in ranked if key not in entries][:SHOWN]
        entries |= {key: {"key": key, "reason": reason, "value": value} for key, value in fresh}
    return list(entries.values())

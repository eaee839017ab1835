"""Register two photographs: of one exposure, their vessels agree where they overlap."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np

from maskedclip.shards.near_duplicates.coarse_alignment import (
    COARSE,
    LEAST_WHOLE,
    block_correlations,
)
from maskedclip.shards.near_duplicates.descriptors import (
    brightest_channel,
    field_of,
    placement,
    quantile,
    structure,
    well_inside,
)

FINE = 192  # pixels
_LEVELS, _VESSEL_LEVELS = 42, 400  # of int8 for one unit of structure, and of vessels
_PROMISING_COARSE, _PROMISING_FINE = 0.4, 0.12  # no duplicate was observed below these medians


@dataclass(frozen=True)
class FineView:
    """A photograph as the second, exact comparison needs it."""

    image_HWC: np.ndarray
    field_HW: np.ndarray  # uint8
    band_HW: np.ndarray  # float32, vessel-sized structure as a share of the local brightness
    inside_HW: np.ndarray  # uint8, well inside the field

    @cached_property  # most views are seen to be of another eye before this is asked for
    def smooth_HW(self) -> np.ndarray:  # noqa: N802
        """Return grey, float32, without what noise and compression change."""
        grey_HW = cv2.cvtColor(self.image_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return np.asarray(cv2.GaussianBlur(grey_HW, (0, 0), 2))

    @cached_property
    def edge_HW(self) -> np.ndarray:  # noqa: N802
        """Return uint8, in the field, whose edge is where its brightness halves."""
        return up_to_the_edge(self.image_HWC, self.field_HW)


class FieldFit(NamedTuple):
    """Distance of the edges of the fields after registration; 0 where no edge is visible."""

    shift: float  # pixels at FINE
    growth: float  # pixels at FINE
    loss: float  # of the vessels' agreement, if the fields are laid on each other instead


class Agreement(NamedTuple):
    """How well two photographs agree where they overlap."""

    score: float  # correlation of vessels in the worst quarter of the blocks; 1 for duplicates
    correlation: float  # of all vessels at once
    detail: float  # contrast of the vessels of the poorer one, a share of the brightness
    overlap: float  # share of the smaller field that both show
    tone: float  # share of the brightness that a curve of the other's explains; 1 for duplicates
    fields: FieldFit
    matrix_23: np.ndarray  # from pixels of the second to those of the first, at FINE


def coarse(image_HWC: np.ndarray) -> np.ndarray:
    """Return structure_HW, int8, at COARSE pixels."""
    small_HWC = cv2.resize(image_HWC, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    return np.round(structure(small_HWC).detail_HW * _LEVELS).astype(np.int8)


def vessels(image_HWC: np.ndarray) -> np.ndarray:
    """Return band_HW, int8, for a first comparison of vessels: 0 outside the field alone."""
    band_HW, inside_HW = _band(image_HWC, field_of(image_HWC))
    level_HW = np.round(band_HW * _VESSEL_LEVELS).astype(np.int8)
    level_HW[(level_HW == 0) & (inside_HW > 0)] = 1
    return level_HW


def _band(image_HWC: np.ndarray, field_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vessel-sized structure as a share of the local brightness, and where it is known."""
    unit = len(image_HWC) / FINE
    green_HW = image_HWC[..., 1].astype(np.float32)
    narrow_HW = cv2.GaussianBlur(green_HW, (0, 0), 1.2 * unit)
    wide_HW = cv2.GaussianBlur(green_HW, (0, 0), 4 * unit)
    inside_HW = well_inside(field_HW, round(12 * unit))  # three times the wide blur
    return np.clip((narrow_HW - wide_HW) / (wide_HW + 8), -0.3, 0.3) * inside_HW, inside_HW


def fine(image_HWC: np.ndarray) -> FineView:
    """Return the view of a photograph of FINE pixels."""
    field_HW = field_of(image_HWC)
    return FineView(image_HWC, field_HW, *_band(image_HWC, field_HW))


def coarse_alignment(
    first_HW: np.ndarray, second_HW: np.ndarray, variant: int
) -> np.ndarray | None:
    """Return matrix_23, at COARSE, that aligns the first with the second, starting at a variant.

    None where they are dissimilar even then.
    """
    first_HW, second_HW = first_HW.astype(np.float32), second_HW.astype(np.float32)
    matrix_23 = _aligned(first_HW, second_HW, placement(variant, COARSE), steps=8)
    moved_HW = _moved(first_HW, matrix_23)
    median = _local(moved_HW, second_HW, (moved_HW != 0) & (second_HW != 0), 0.5)
    return matrix_23 if median >= _PROMISING_COARSE else None


def agreement(first: FineView, second: FineView, coarse_23: np.ndarray) -> Agreement | None:
    """Return how well two photographs agree, aligned exactly; None where they clearly do not."""
    matrix_23 = enlarged(coarse_23, FINE / COARSE)
    moved_HW, both_HW = _overlaid(first, second, matrix_23)
    if _local(moved_HW, second.band_HW, both_HW, 0.5) < _PROMISING_FINE:
        return None
    matrix_23 = _aligned(first.band_HW, second.band_HW, matrix_23, steps=30)
    moved_HW, both_HW = _overlaid(first, second, matrix_23)
    score = _local(moved_HW, second.band_HW, both_HW, 0.25)
    if score <= 0:
        return None
    one_P, other_P = moved_HW[both_HW], second.band_HW[both_HW]
    one_P, other_P = one_P - one_P.mean(), other_P - other_P.mean()
    lengths = float(np.linalg.norm(one_P) * np.linalg.norm(other_P))
    ratio = abs(float(np.linalg.det(matrix_23[:, :2])))  # of areas, first to second
    smaller = min(float(second.inside_HW.sum()), float(first.inside_HW.sum()) / ratio)
    return Agreement(
        score=score,
        correlation=float(one_P @ other_P) / (lengths + 1e-9),
        detail=float(min(one_P.std(), other_P.std())),
        overlap=float(both_HW.sum()) / smaller,
        tone=_tone(_moved(first.smooth_HW, matrix_23)[both_HW], second.smooth_HW[both_HW]),
        fields=_field_fit(first, second, matrix_23),
        matrix_23=matrix_23,
    )


def _tone(one_P: np.ndarray, other_P: np.ndarray) -> float:
    """Return how much of the brightness of each is a function of the other's, the worse of both.

    Brightness, contrast and gamma are such functions; dust on the lens is not.
    """
    explained = []
    for known_P, target_P in ((one_P, other_P), (other_P, one_P)):
        levels = np.array_split(target_P[np.argsort(known_P, kind="stable")], 40)
        left = sum(float(((level - level.mean()) ** 2).sum()) for level in levels)
        explained.append(1 - left / (float(((target_P - target_P.mean()) ** 2).sum()) + 1e-9))
    return min(explained)


def _field_fit(first: FineView, second: FineView, matrix_23: np.ndarray) -> FieldFit:
    """Return how far the edges of the fields lie apart when the vessels are aligned.

    In duplicates the edge moves with the vessels; in another exposure of the eye the camera, and so
    the edge, has moved a little. A cropped photograph has no edge: all values are 0.
    """
    forward = edge_offsets(first.edge_HW, second.edge_HW, matrix_23)
    backward = edge_offsets(second.edge_HW, first.edge_HW, cv2.invertAffineTransform(matrix_23))
    if forward is None or backward is None:
        return FieldFit(0.0, 0.0, 0.0)
    growth = (forward[0] - backward[0]) / 2
    middle = (FINE - 1) / 2
    forced_23 = matrix_23.astype(np.float64)  # aligns the fields in place of the vessels
    factor = 1 + growth / middle
    forced_23[:, :2] *= factor
    forced_23[:, 2] = factor * (forced_23[:, 2] - middle) + middle + forward[1:]
    before, after = (
        [_local(moved_HW, second.band_HW, both_HW, at) for at in (0.25, 0.5)]
        for moved_HW, both_HW in (
            _overlaid(first, second, matrix_23),
            _overlaid(first, second, forced_23.astype(np.float32)),
        )
    )
    shift = min(float(np.hypot(*forward[1:])), float(np.hypot(*backward[1:])))
    return FieldFit(shift, abs(float(growth)), sum(before) - sum(after))


def _aligned(
    first_HW: np.ndarray, second_HW: np.ndarray, matrix_23: np.ndarray, steps: int
) -> np.ndarray:
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-4)
    rest: Any = (cv2.MOTION_AFFINE, criteria, None, 5)  # no mask, and smoothed over 5 pixels
    try:
        _, aligned_23 = cv2.findTransformECC(second_HW, first_HW, matrix_23.copy(), *rest)
    except cv2.error:  # it did not converge
        return matrix_23
    return np.asarray(aligned_23)


def _moved(image_HW: np.ndarray, matrix_23: np.ndarray, flag: int = cv2.INTER_LINEAR) -> np.ndarray:
    size = (image_HW.shape[1], image_HW.shape[0])
    return cv2.warpAffine(image_HW, matrix_23, size, flags=cv2.WARP_INVERSE_MAP | flag)


def _overlaid(
    first: FineView, second: FineView, matrix_23: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    inside_HW = _moved(first.inside_HW, matrix_23, cv2.INTER_NEAREST)
    return _moved(first.band_HW, matrix_23), (inside_HW & second.inside_HW).astype(bool)


def _local(first_HW: np.ndarray, second_HW: np.ndarray, both_HW: np.ndarray, at: float) -> float:
    """Return the quantile `at` of the blocks' correlations; -1 where few blocks are whole."""
    value_1K, whole_1K = block_correlations(first_HW[None], second_HW[None], both_HW[None])
    return quantile(value_1K[whole_1K], at) if whole_1K.sum() >= LEAST_WHOLE else -1.0


def enlarged(matrix_23: np.ndarray, ratio: float) -> np.ndarray:
    """Return the matrix for images that are `ratio` times as large."""
    large_23 = matrix_23.astype(np.float64)
    middle_2 = np.full(2, (ratio - 1) / 2)  # pixel 0 of the small image, in the large one
    large_23[:, 2] = ratio * large_23[:, 2] + middle_2 - large_23[:, :2] @ middle_2
    return large_23.astype(np.float32)


def up_to_the_edge(image_HWC: np.ndarray, field_HW: np.ndarray) -> np.ndarray:
    """Return edge_HW: the field up to half of the brightness nearby, which is stable to tone."""
    value_HW = cv2.blur(brightest_channel(image_HWC), (3, 3)).astype(np.float32)
    frame = quantile(value_HW[field_HW == 0], 0.5) if (field_HW == 0).any() else 0.0
    nearby_HW = cv2.dilate(value_HW, np.ones((15, 15), np.uint8)) - frame
    lit_HW = ((value_HW - frame > nearby_HW / 2) & (nearby_HW > 8)).astype(np.uint8)
    outlines, _ = cv2.findContours(lit_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    edge_HW = np.zeros_like(field_HW)
    if outlines:
        cv2.fillConvexPoly(edge_HW, cv2.convexHull(max(outlines, key=cv2.contourArea)), 1)
    return edge_HW


def edge_offsets(
    field_HW: np.ndarray, other_HW: np.ndarray, matrix_23: np.ndarray
) -> np.ndarray | None:
    """Return (growth, shift right, shift down) in pixels that align the other's edge with it.

    None where too little of both edges is visible.
    """
    outlines, _ = cv2.findContours(other_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    edge_P2 = max(outlines, key=cv2.contourArea)[:, 0].astype(np.float64)
    edge_P2 = edge_P2[_off_border(edge_P2, len(field_HW))]
    moved_P2 = edge_P2 @ matrix_23[:, :2].T.astype(np.float64) + matrix_23[:, 2]
    moved_P2 = moved_P2[_off_border(moved_P2, len(field_HW))]
    if len(moved_P2) < len(field_HW) // 3:
        return None
    depth_P = _depth(field_HW, moved_P2)
    near_P = np.abs(depth_P - np.median(depth_P)) < 4
    outward_P2 = moved_P2[near_P] - (len(field_HW) - 1) / 2
    outward_P2 /= np.linalg.norm(outward_P2, axis=1, keepdims=True) + 1e-9
    known_P3, wanted_P = np.column_stack([np.ones(len(outward_P2)), outward_P2]), depth_P[near_P]
    weight_P = np.ones(len(wanted_P))
    for _ in range(5):  # towards least absolute residuals: a notch is no shift
        root_P = np.sqrt(weight_P)
        offset_3 = np.linalg.lstsq(known_P3 * root_P[:, None], wanted_P * root_P, rcond=None)[0]
        weight_P = 1 / np.maximum(np.abs(wanted_P - known_P3 @ offset_3), 0.3)
    return np.asarray(offset_3)


def _off_border(point_P2: np.ndarray, side: int) -> np.ndarray:
    """Return whether points are off the border of the image, where an edge may be a cut."""
    return np.asarray(((point_P2 > 2) & (point_P2 < side - 3)).all(axis=1))


def _depth(field_HW: np.ndarray, point_P2: np.ndarray) -> np.ndarray:
    """Return how deep points lie inside a field, in pixels; negative outside."""
    inside_HW = cv2.distanceTransform(field_HW, cv2.DIST_L2, 5)
    outside_HW = cv2.distanceTransform(1 - field_HW, cv2.DIST_L2, 5)
    signed_HW = np.where(field_HW > 0, inside_HW - 0.5, 0.5 - outside_HW).astype(np.float32)
    at_P2 = point_P2.astype(np.float32)
    depth_P1 = cv2.remap(signed_HW, at_P2[:, :1], at_P2[:, 1:], cv2.INTER_LINEAR)
    return np.asarray(depth_P1[:, 0], np.float64)

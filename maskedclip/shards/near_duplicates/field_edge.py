"""Where the edge of a field of view lies: two copies have it at one place of the retina."""

import cv2
import numpy as np

from maskedclip.shards.near_duplicates.descriptors import brightest_channel


def up_to_the_edge(image_HWC: np.ndarray, field_HW: np.ndarray) -> np.ndarray:
    """Return edge_HW: half of the brightness nearby is a place that no change of tone moves far."""
    value_HW = cv2.blur(brightest_channel(image_HWC), (3, 3)).astype(np.float32)
    frame = float(np.median(value_HW[field_HW == 0])) if (field_HW == 0).any() else 0.0
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
    """Return (growth, shift right, shift down) in pixels that lay the other's edge on the field's.

    None where too little of both edges is seen.
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
        found_3 = np.linalg.lstsq(known_P3 * root_P[:, None], wanted_P * root_P, rcond=None)[0]
        weight_P = 1 / np.maximum(np.abs(wanted_P - known_P3 @ found_3), 0.3)
    return np.asarray(found_3)


def _off_border(point_P2: np.ndarray, side: int) -> np.ndarray:
    """Return whether points are off the border of the picture, where an edge may be a cut."""
    return np.asarray(((point_P2 > 2) & (point_P2 < side - 3)).all(axis=1))


def _depth(field_HW: np.ndarray, point_P2: np.ndarray) -> np.ndarray:
    """Return how deep points lie inside a field, in pixels; negative outside."""
    inside_HW = cv2.distanceTransform(field_HW, cv2.DIST_L2, 5)
    outside_HW = cv2.distanceTransform(1 - field_HW, cv2.DIST_L2, 5)
    signed_HW = np.where(field_HW > 0, inside_HW - 0.5, 0.5 - outside_HW).astype(np.float32)
    place_P2 = point_P2.astype(np.float32)
    found = cv2.remap(signed_HW, place_P2[:, :1], place_P2[:, 1:], cv2.INTER_LINEAR)
    return np.asarray(found[:, 0], np.float64)

"""The vessel tree of a phantom, in units of the field of view's radius.

All branches of one generation are walked at once, since a Python loop over steps would take
longer than the rest of the drawing together. A right eye: the disc lies at +x, y points down.
"""

from typing import NamedTuple

import numpy as np

STEPS = 24  # points of one branch


class Vessels(NamedTuple):
    """Branches of a vessel tree, of one length in points; nan behind the end of a branch."""

    points_VS2: np.ndarray
    width_VS: np.ndarray
    vein_V: np.ndarray  # bool
    main_V: np.ndarray  # bool, True for the trunks that leave the disc


def walk(
    rng: np.random.Generator,
    start_V2: np.ndarray,
    angle_V: np.ndarray,
    length_V: np.ndarray,
    curl: float,
    bend_V: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return points_VS2 of paths that leave at `angle_V`, turn by `bend_V`, wander by `curl`."""
    count = len(start_V2)
    bend_V1 = np.reshape(bend_V, (-1, 1)) + rng.normal(0.0, 1.0, (count, 1)) * curl
    wobble_VS = rng.normal(0.0, 0.9 * curl, (count, STEPS - 1)).cumsum(axis=1) * 0.6
    angle_VS = angle_V[:, None] + bend_V1 * np.linspace(0.0, 1.6, STEPS - 1) + wobble_VS
    step_V1 = length_V[:, None] / (STEPS - 1)
    move_VS2 = np.stack([np.cos(angle_VS) * step_V1, np.sin(angle_VS) * step_V1], axis=-1)
    return np.concatenate([start_V2[:, None], start_V2[:, None] + move_VS2.cumsum(axis=1)], axis=1)


def _trunks(
    rng: np.random.Generator, disc: tuple[float, float], fovea: tuple[float, float], curl: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the trunks' points_VS2 and vein_V: pairs up and down, temporal and nasal."""
    corners = []
    veins = []
    for vein in (False, True):
        for up in (-1.0, 1.0):
            apart = (0.055 if vein else -0.02) + rng.normal(0.0, 0.03)
            height = rng.uniform(0.45, 0.68) + apart
            reach = rng.uniform(0.95, 1.3)
            corners.append(
                [
                    disc,
                    (disc[0] + rng.uniform(-0.06, 0.10), disc[1] + up * height * 0.85),
                    (fovea[0] + rng.uniform(0.05, 0.3), fovea[1] + up * (height + 0.2)),
                    (fovea[0] - reach, fovea[1] + up * rng.uniform(0.25, 0.6)),
                ]
            )
            side = rng.uniform(0.25, 0.5)
            corners.append(
                [
                    disc,
                    (disc[0] + 0.06, disc[1] + up * 0.22),
                    (disc[0] + side * 0.7, disc[1] + up * 0.4),
                    (disc[0] + side, disc[1] + up * rng.uniform(0.7, 1.0)),
                ]
            )
            veins += [vein, vein]
    corner_V42 = np.asarray(corners)
    time_S = np.linspace(0.0, 1.0, STEPS)
    weight_S4 = np.stack(
        [
            (1 - time_S) ** 3,
            3 * time_S * (1 - time_S) ** 2,
            3 * time_S**2 * (1 - time_S),
            time_S**3,
        ],
        axis=1,
    )
    points_VS2 = np.einsum("sk,vkd->vsd", weight_S4, corner_V42)
    # a Bezier curve is too smooth for a vessel: a regular wave and an irregular drift are added
    wave_VS1 = np.sin(
        time_S * rng.uniform(14.0, 30.0, (len(veins), 1)) + rng.uniform(0.0, 6.3, (len(veins), 1))
    )[..., None]
    along_VS2 = np.gradient(points_VS2, axis=1)
    across_VS2 = along_VS2[..., ::-1] * np.asarray((-1.0, 1.0))
    across_VS2 /= np.hypot(along_VS2[..., 0], along_VS2[..., 1])[..., None] + 1e-9
    points_VS2 = points_VS2 + across_VS2 * wave_VS1 * time_S[:, None] ** 0.5 * 0.05 * curl
    wander_VS2 = rng.normal(0.0, 0.1 * curl, points_VS2.shape).cumsum(axis=1)
    wander_VS2 -= wander_VS2[:, :1]
    smooth_VS2 = (wander_VS2[:, :-2] + wander_VS2[:, 1:-1] + wander_VS2[:, 2:]) / 3
    points_VS2[:, 1:-1] += smooth_VS2 * 0.6
    points_VS2[:, -1] += smooth_VS2[:, -1] * 0.6
    return points_VS2, np.asarray(veins)


def _children(
    rng: np.random.Generator, parent: Vessels, count: int, reach: float, curl: float
) -> Vessels:
    """Return `count` side branches of every branch of `parent`."""
    branches = len(parent.points_VS2)
    at_VK = np.linspace(0.25, 0.88, count) + rng.uniform(-0.08, 0.08, (branches, count))
    index_V = np.clip((at_VK * (STEPS - 1)).astype(int), 1, STEPS - 2).reshape(-1)
    parent_V = np.repeat(np.arange(branches), count)
    start_V2 = parent.points_VS2[parent_V, index_V]
    along_V2 = parent.points_VS2[parent_V, index_V + 1] - start_V2
    turn_V = rng.uniform(0.5, 1.1, len(parent_V)) * rng.choice((-1.0, 1.0), len(parent_V))
    angle_V = np.arctan2(along_V2[:, 1], along_V2[:, 0]) + turn_V
    length_V = rng.uniform(0.4, 1.0, len(parent_V)) * reach
    points_VS2 = walk(rng, start_V2, angle_V, length_V, curl, -0.35 * turn_V)
    width_V1 = parent.width_VS[parent_V, index_V, None] * rng.uniform(0.5, 0.9, (len(parent_V), 1))
    return Vessels(
        points_VS2,
        width_V1 * np.linspace(1.0, 0.45, STEPS),
        parent.vein_V[parent_V],
        np.zeros(len(parent_V), dtype=bool),
    )


def _end_branches(points_VS2: np.ndarray, fovea: tuple[float, float], bare: float) -> np.ndarray:
    """Return points_VS2 with nan from where a branch enters the vessel-free zone or the dark."""
    apart_VS2 = points_VS2 - np.asarray(fovea)
    inside_VS = (apart_VS2**2).sum(axis=-1) < bare**2
    outside_VS = (points_VS2**2).sum(axis=-1) > 1.1
    ended_VS = np.logical_or.accumulate(inside_VS | outside_VS, axis=1)
    return np.where(ended_VS[..., None], np.nan, points_VS2)


def grow(
    seed: int,
    disc: tuple[float, float],
    fovea: tuple[float, float],
    curl: float,
    width: float,
) -> Vessels:
    """Return the vessel tree of one eye; `width` is that of the widest vein at the disc."""
    rng = np.random.default_rng([seed, 11])
    points_VS2, vein_V = _trunks(rng, disc, fovea, curl)
    base_V = np.where(vein_V, width, width * 0.7) * rng.uniform(0.85, 1.1, len(vein_V))
    taper_S = np.linspace(1.0, 0.5, STEPS)
    trunks = Vessels(
        points_VS2, base_V[:, None] * taper_S, vein_V, np.ones(len(vein_V), dtype=bool)
    )
    # fine vessels from the disc straight towards the macula and away from it
    fine = 7
    angle_V = np.concatenate([rng.normal(np.pi, 0.45, 4), rng.normal(0.0, 0.6, fine - 4)])
    start_V2 = np.repeat(np.asarray([disc]), fine, axis=0)
    small = Vessels(
        walk(rng, start_V2, angle_V, rng.uniform(0.35, 0.6, fine), curl * 1.3),
        width * rng.uniform(0.25, 0.42, (fine, 1)) * taper_S,
        rng.random(fine) < 0.5,
        np.zeros(fine, dtype=bool),
    )
    first = _children(rng, trunks, 6, 0.75, curl)
    second = _children(rng, first, 2, 0.35, curl * 1.4)
    twigs = _children(rng, small, 2, 0.2, curl * 1.5)
    levels = (trunks, small, first, second, twigs)
    joined = Vessels(*(np.concatenate(parts) for parts in zip(*levels, strict=True)))
    bare = rng.uniform(0.10, 0.16)
    return joined._replace(points_VS2=_end_branches(joined.points_VS2, fovea, bare))

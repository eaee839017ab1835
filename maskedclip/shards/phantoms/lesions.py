"""How the findings of a phantom are painted; each kind has its own random numbers.

So taking one kind of finding away changes nothing else in the picture.
"""

import zlib

import numpy as np

from maskedclip.shards.phantoms.canvas import Canvas, Mask, blurred, cloud, cover, edge, shade
from maskedclip.shards.phantoms.eye import Plan
from maskedclip.shards.phantoms.vessels import walk

TURN_N = np.linspace(0.0, 2 * np.pi, 14, endpoint=False)


def _random(plan: Plan, name: str) -> np.random.Generator:
    return np.random.default_rng([plan.seed, 3, zlib.crc32(name.encode())])


def _blot(
    rng: np.random.Generator, row: np.ndarray, rough: float, stretch: float = 1.0, turn: float = 0.0
) -> np.ndarray:
    """Return the outline place_N2 of an uneven spot within the circle (x, y, radius)."""
    x, y, radius = row
    raw_N = rng.normal(0.0, 1.0, len(TURN_N))
    smooth_N = (raw_N + np.roll(raw_N, 1)) * 0.6
    away_N = radius * np.clip(0.85 + rough * smooth_N, 0.3, 1.1)
    along_N, across_N = away_N * np.cos(TURN_N), away_N * np.sin(TURN_N) / stretch
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack(
        [x + along_N * cos - across_N * sin, y + along_N * sin + across_N * cos], axis=1
    )


def paint_deep(image_HWC: np.ndarray, plan: Plan, surface: Canvas) -> None:
    """Paint what lies beneath the vessels: drusen and atrophy; in place."""
    drusen_K3 = plan.lesions.get("drusens")
    if drusen_K3 is not None:
        rng, mask = _random(plan, "drusens"), Mask(surface)
        for row in drusen_K3:
            mask.fill(_blot(rng, row, 0.12), rng.uniform(0.35, 0.85))
        cover(image_HWC, mask.done(0.008), (0.95, 0.78, 0.42))
    for name in ("chorioretinal atrophy", "geographical age related macular degeneration"):
        rows_K3 = plan.lesions.get(name)
        if rows_K3 is None:
            continue
        rng, mask = _random(plan, name), Mask(surface)
        for row in rows_K3:
            mask.fill(_blot(rng, row, 0.3))
        uneven_HW = 0.78 + 0.12 * cloud(rng, surface.size, 40)
        # noise on a soft mask, cut sharp again, frays the outline
        soft_HW = mask.done(0.022)
        fray_HW = np.float32(0.14) * cloud(rng, surface.size, 34)
        frayed_HW = soft_HW + np.minimum(soft_HW * 4, 1.0) * fray_HW
        mask_HW = np.clip((frayed_HW - np.float32(0.5)) * 5 + np.float32(0.5), 0.0, 1.0)
        cover(image_HWC, mask_HW * uneven_HW, (1.1, 0.98, 0.7))
        near_HW = blurred(mask_HW, 0.018 * surface.scale)
        shade(image_HWC, near_HW * (1 - mask_HW), (0.45, 0.6, 0.6))
        clumps_HW = np.clip(cloud(rng, surface.size, 45) * 2 - np.float32(2.2), 0.0, 1.0)
        shade(image_HWC, clumps_HW * np.minimum(near_HW * 1.5, 1.0), (0.55, 0.65, 0.6))


def _haemorrhages(plan: Plan, surface: Canvas) -> np.ndarray:
    """Return mask_HW of flames along the nerve fibres, dots and blots."""
    rng, mask = _random(plan, "haemorrhages"), Mask(surface)
    for row in plan.lesions["haemorrhages"]:
        if rng.random() < 0.35:
            turn = np.arctan2(row[1] - plan.eye.disc[1], row[0] - plan.eye.disc[0])
            mask.fill(_blot(rng, row, 0.22, rng.uniform(2.0, 3.2), turn), rng.uniform(0.7, 1.0))
        else:
            outline_N2 = _blot(rng, row, 0.22, rng.uniform(1.0, 1.5), rng.uniform(0, np.pi))
            mask.fill(outline_N2, rng.uniform(0.7, 1.0))
    return mask.done(0.004)


def _tufts(plan: Plan, surface: Canvas) -> np.ndarray:
    """Return mask_HW of fine, curled new vessels."""
    rng, mask = _random(plan, "neovascularisation"), Mask(surface)
    for x, y, radius in plan.lesions["neovascularisation"]:
        count = 16
        start_V2 = np.asarray((x, y)) + rng.normal(0.0, radius * 0.15, (count, 2))
        angle_V = np.linspace(0.0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.2, count)
        length_V = radius * rng.uniform(0.8, 1.6, count)
        path_VS2 = walk(rng, start_V2, angle_V, length_V, 0.8)
        far_VS2 = path_VS2 - np.asarray((x, y))
        over_VS1 = np.maximum(np.hypot(far_VS2[..., 0], far_VS2[..., 1])[..., None] / radius, 1.0)
        inside_VS2 = np.asarray((x, y)) + far_VS2 / over_VS1
        mask.lines(inside_VS2, np.full(inside_VS2.shape[:2], 0.009), inside_VS2.shape[1])
    return mask.done()


def _pool(plan: Plan, surface: Canvas) -> np.ndarray:
    """Return mask_HW of blood in front of the retina, with a level top."""
    x, y, radius = plan.lesions["preretinal haemorrhage"][0]
    turn_N = np.linspace(0.0, np.pi, 24)
    mask = Mask(surface)
    mask.fill(np.stack([x + radius * np.cos(turn_N), y + radius * 0.62 * np.sin(turn_N)], axis=1))
    return mask.done(0.005)


def paint_shallow(image_HWC: np.ndarray, plan: Plan, surface: Canvas) -> None:
    """Paint what lies before the vessels: exudates, bleeding, new vessels; in place."""
    found = plan.lesions
    if "soft exudates" in found:
        rng, mask = _random(plan, "soft exudates"), Mask(surface)
        for row in found["soft exudates"]:
            mask.fill(_blot(rng, row, 0.2, rng.uniform(1.1, 1.7), rng.uniform(0, np.pi)), 0.85)
        cover(image_HWC, mask.done(0.014), (0.97, 0.92, 0.74))
    if "hard exudates" in found:
        rng, mask = _random(plan, "hard exudates"), Mask(surface)
        for row in found["hard exudates"]:
            mask.fill(_blot(rng, row, 0.2))
        cover(image_HWC, mask.done(), (1.0, 0.90, 0.45))
    if "haemorrhages" in found:
        shade(image_HWC, _haemorrhages(plan, surface), (0.38, 0.68, 0.62))
    if "microaneurysms" in found:
        rng, mask = _random(plan, "microaneurysms"), Mask(surface)
        for row in found["microaneurysms"]:
            mask.fill(_blot(rng, row, 0.08))
        shade(image_HWC, mask.done(), (0.35, 0.72, 0.66))
    if "neovascularisation" in found:
        shade(image_HWC, _tufts(plan, surface), (0.25, 0.72, 0.66))
    if "preretinal haemorrhage" in found:
        shade(image_HWC, _pool(plan, surface), (0.45, 0.84, 0.8))


def paint_crescent(image_HWC: np.ndarray, plan: Plan, surface: Canvas) -> None:
    """Paint the bare, pale crescent on the temporal side of the disc; in place."""
    if "myopic crescent" not in plan.lesions:
        return
    x, y, radius = plan.lesions["myopic crescent"][0]
    uneven_HW = 0.05 * cloud(_random(plan, "myopic crescent"), surface.size, 14)
    distance_HW = np.hypot(surface.x_HW - x, (surface.y_HW - y) * 1.12) / radius + uneven_HW
    rim_HW = edge(distance_HW / 1.12, 0.2)
    shade(image_HWC, rim_HW, (0.2, 0.3, 0.3))
    cover(image_HWC, edge(distance_HW, 0.1) * np.float32(0.85), (1.08, 0.95, 0.72))

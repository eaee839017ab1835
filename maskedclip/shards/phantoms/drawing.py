"""How a phantom is drawn: fundus, disc, vessels, findings, then camera and field of view."""

import numpy as np

from maskedclip.shards.phantoms.canvas import (
    Canvas,
    Mask,
    blurred,
    canvas,
    cloud,
    cover,
    edge,
    shade,
)
from maskedclip.shards.phantoms.eye import Camera, Plan
from maskedclip.shards.phantoms.lesions import paint_crescent, paint_deep, paint_shallow
from maskedclip.shards.phantoms.vessels import walk


def pixels(
    plan: Plan, row: tuple[float, float, float] | list[float], size: int
) -> tuple[float, float, float]:
    """Return (x, y, radius) of units in pixels of an image of `size`."""
    scale, mirror = plan.camera.field * size / 2, 1.0 if plan.eye.side == "R" else -1.0
    middle = (size - 1) / 2
    return middle + row[0] * scale * mirror, middle + row[1] * scale, row[2] * scale


def _choroid(rng: np.random.Generator, surface: Canvas) -> np.ndarray:
    """Return bands_HW, about zero, of the wide vessels beneath the retina."""
    count = 240
    start_V2 = rng.uniform(-1.1, 1.1, (count, 2))
    angle_V = np.arctan2(start_V2[:, 1], start_V2[:, 0] - 0.5) + rng.normal(0.0, 0.5, count)
    path_VS2 = walk(rng, start_V2, angle_V, rng.uniform(0.25, 0.6, count), 0.5)[:, ::3]
    width_VS = np.repeat(rng.uniform(0.007, 0.022, (count, 1)), path_VS2.shape[1], axis=1)
    mask = Mask(surface)
    mask.lines(path_VS2, width_VS, path_VS2.shape[1])
    uneven_HW = np.clip(0.8 + 0.5 * cloud(rng, surface.size, 8), 0.0, 1.5)
    return (mask.done(0.007) - np.float32(0.4)) * uneven_HW + 0.12 * cloud(rng, surface.size, 40)


def _background(plan: Plan, surface: Canvas) -> np.ndarray:
    """Return image_HWC of retina and choroid alone, in [0, 1]."""
    rng, eye, size = np.random.default_rng([plan.seed, 4]), plan.eye, surface.size
    broad_HW = cloud(rng, size, 4) * 0.05 + cloud(rng, size, 9) * 0.03
    grain_HW = cloud(rng, size, 30) * 0.018 + cloud(rng, size, 70) * 0.018
    tone_HW = broad_HW + grain_HW
    choroid_HW = np.zeros_like(tone_HW)
    if eye.tessellation:
        choroid_HW = _choroid(rng, surface) * np.float32(0.3 * eye.tessellation)
    image_HWC = np.empty((size, size, 3), dtype=np.float32)
    for colour, (tone, choroid) in enumerate(((0.7, 0.6), (1.0, 0.9), (1.2, 0.5))):
        layer_HW = 1 + tone_HW * np.float32(tone) + choroid_HW * np.float32(choroid)
        image_HWC[..., colour] = layer_HW * np.float32(eye.colour[colour])
    apart_HW = (surface.x_HW - eye.fovea[0]) ** 2 + (surface.y_HW - eye.fovea[1]) ** 2
    macula_HW = np.exp(apart_HW / np.float32(-2 * 0.15**2)) * np.float32(eye.macula)
    macula_HW += np.exp(apart_HW / np.float32(-2 * 0.045**2)) * np.float32(eye.macula * 0.6)
    shade(image_HWC, macula_HW, (0.55, 0.9, 0.9))
    # the nerve fibres shine where they are thick: about the disc and along the arcades
    from_disc_HW = (surface.x_HW - eye.disc[0]) ** 2 + (surface.y_HW - eye.disc[1]) ** 2
    sheen = 0.05 if plan.disease == "glaucoma" else 0.16
    cover(image_HWC, np.exp(from_disc_HW / np.float32(-0.09)) * np.float32(sheen), (0.95, 0.8, 0.6))
    if plan.crescent:  # the stretched posterior pole is thin and pale
        middle_x, middle_y = (eye.disc[0] + eye.fovea[0]) / 2, (eye.disc[1] + eye.fovea[1]) / 2
        apart_HW = (surface.x_HW - middle_x) ** 2 + (surface.y_HW - middle_y) ** 2
        pale_HW = np.exp(apart_HW / np.float32(-0.3)) * (1 + 0.5 * cloud(rng, size, 9))
        cover(image_HWC, np.clip(pale_HW * np.float32(0.28), 0.0, 0.5), (1.0, 0.78, 0.5))
    return image_HWC


def _disc(image_HWC: np.ndarray, plan: Plan, surface: Canvas) -> None:
    """Paint the disc with its rim and its cup; in place."""
    rng, eye = np.random.default_rng([plan.seed, 5]), plan.eye
    narrow = rng.uniform(0.86, 0.97) - (0.1 if plan.crescent else 0.0)
    x_HW, y_HW = surface.x_HW - np.float32(eye.disc[0]), surface.y_HW - np.float32(eye.disc[1])
    radius = np.float32(eye.disc_radius)
    disc_HW = np.hypot(x_HW / np.float32(narrow), y_HW) / radius
    # paler than the fundus around it, whatever its pigment
    rim = (0.97, eye.colour[1] + rng.uniform(0.15, 0.23), eye.colour[2] + rng.uniform(0.08, 0.15))
    cover(image_HWC, edge(disc_HW, 0.16), rim)
    # the cup lies a little temporal, the vessels leave at its nasal side
    cup_x_HW = x_HW / np.float32(narrow) + radius * np.float32(0.08)
    cup_HW = np.hypot(cup_x_HW, y_HW) / (radius * np.float32(eye.cup_to_disc))
    cover(image_HWC, edge(cup_HW, 0.3) * np.float32(0.92), (1.12, 1.02, 0.8))


def _vessel_masks(plan: Plan, surface: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mask_HW of arteries, of veins and of the arteries' bright middle."""
    vessels = plan.eye.vessels
    arteries, veins, shine = Mask(surface), Mask(surface), Mask(surface)
    points_VS2, width_VS = vessels.points_VS2, vessels.width_VS
    if plan.beading:
        steps_S = np.arange(width_VS.shape[1])
        bead_S = 1 + 0.28 * np.cos(steps_S * np.pi)
        width_VS = np.where((vessels.vein_V & vessels.main_V)[:, None], width_VS * bead_S, width_VS)
    trunk_V, vein_V = vessels.main_V, vessels.vein_V
    for mask, kind_V in ((arteries, ~vein_V), (veins, vein_V)):
        for chosen_V in (kind_V & ~trunk_V, kind_V & trunk_V):
            piece = 1 if plan.beading and bool(trunk_V[chosen_V].any()) else 6
            mask.lines(points_VS2[chosen_V], width_VS[chosen_V], piece)
    bright_V = trunk_V & ~vein_V
    shine.lines(points_VS2[bright_V], width_VS[bright_V] * 0.3, 6)
    return arteries.done(), veins.done(0.003), shine.done()


def _vessels(image_HWC: np.ndarray, plan: Plan, surface: Canvas) -> None:
    """Paint the vessels, veins below arteries; in place."""
    arteries_HW, veins_HW, shine_HW = _vessel_masks(plan, surface)
    shade(image_HWC, veins_HW, (0.20, 0.38, 0.31))
    shade(image_HWC, arteries_HW, (0.06, 0.29, 0.28))
    cover(image_HWC, shine_HW * np.float32(0.25), (0.95, 0.65, 0.45))


def _cloud_over(image_HWC: np.ndarray, plan: Plan, surface: Canvas) -> np.ndarray:
    """Return the image as seen through a cataract."""
    rng = np.random.default_rng([plan.seed, 6])
    image_HWC = blurred(image_HWC, (0.006 + 0.035 * plan.haze**2) * surface.scale)
    uneven_HW = 1 + 0.08 * cloud(rng, surface.size, 4)
    lens = np.asarray(((0.74, 0.68, 0.56), (0.76, 0.56, 0.34), (0.66, 0.64, 0.60)))
    veil = tuple(rng.choice(lens) * rng.uniform(0.85, 1.15))
    cover(image_HWC, np.clip(uneven_HW * np.float32(plan.haze), 0.0, 0.95), veil)
    return image_HWC


def _light(camera: Camera, surface: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Return light_HW, the uneven illumination."""
    far_HW = surface.x_HW**2 + surface.y_HW**2
    lean_x, lean_y = rng.normal(0.0, 0.18, 2)
    light_HW = 1 - np.float32(0.6 * camera.vignette) * far_HW
    light_HW += surface.x_HW * np.float32(lean_x) + surface.y_HW * np.float32(lean_y)
    light_HW += cloud(rng, surface.size, 4) * np.float32(0.06)
    return light_HW * np.float32(camera.exposure)


def _expose(image_HWC: np.ndarray, plan: Plan, surface: Canvas) -> np.ndarray:
    """Return image_HWC uint8 as the camera gives it, black outside its field of view."""
    camera, rng = plan.camera, np.random.default_rng([plan.seed, 7])
    light_HW = _light(camera, surface, rng)
    far_HW = surface.x_HW**2 + surface.y_HW**2
    cover(image_HWC, np.full_like(far_HW, camera.veil), (0.6, 0.55, 0.5))
    if camera.glow:
        lean_x, lean_y = rng.normal(0.0, 0.09, 2)
        x_HW, y_HW = surface.x_HW - np.float32(lean_x), surface.y_HW - np.float32(lean_y)
        rim_HW = np.clip((np.hypot(x_HW, y_HW) - np.float32(0.72)) * np.float32(2.6), 0.0, 1.0)
        colour = ((0.95, 0.95, 0.80), (0.70, 0.95, 0.95), (0.98, 0.80, 0.62))[rng.integers(0, 3)]
        cover(image_HWC, rim_HW**2 * np.float32(camera.glow), colour)
    for index, tint in enumerate(camera.tint):
        image_HWC[..., index] *= light_HW * np.float32(tint)
    image_HWC = blurred(image_HWC, camera.blur * surface.scale)
    image_HWC = (image_HWC - np.float32(0.35)) * np.float32(camera.contrast) + np.float32(0.35)
    noise_HWC = rng.standard_normal(image_HWC.shape, dtype=np.float32)
    image_HWC = image_HWC * np.float32(255) + noise_HWC * np.float32(camera.noise)
    inside_HW = np.clip((1 - np.sqrt(far_HW)) * np.float32(surface.scale), 0.0, 1.0)
    if camera.cut < 1:
        level_HW = (np.float32(camera.cut) - np.abs(surface.y_HW)) * np.float32(surface.scale)
        inside_HW = np.minimum(inside_HW, np.clip(level_HW, 0.0, 1.0))
    return np.clip(np.rint(image_HWC) * inside_HW[..., None], 0, 255).astype(np.uint8)


def render(plan: Plan, size: int) -> np.ndarray:
    """Return image_HWC uint8 of `plan`, `size` pixels square, a pure function of both."""
    surface = canvas(size, plan.camera.field, plan.eye.side)
    image_HWC = _background(plan, surface)
    paint_deep(image_HWC, plan, surface)
    paint_crescent(image_HWC, plan, surface)
    _disc(image_HWC, plan, surface)
    _vessels(image_HWC, plan, surface)
    paint_shallow(image_HWC, plan, surface)
    if plan.haze:
        image_HWC = _cloud_over(image_HWC, plan, surface)
    return _expose(image_HWC, plan, surface)

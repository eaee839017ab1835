"""How a phantom is drawn: fundus, disc, vessels, lesions, then camera and field of view.

Shapes are drawn on a finer grid as 8-bit masks and reduced, so that a vessel half a pixel wide
comes out half as strong instead of one pixel wide. Every kind of lesion has its own random numbers:
removing one changes nothing else in the image.
"""

import zlib
from typing import NamedTuple

import cv2
import numpy as np

from maskedclip.shards.phantoms.anatomy import Camera, PhantomPlan, walk

FINE = 448  # pixels at least, of the grid that shapes are drawn on
SHIFT = 4  # fractional bits of a position given to OpenCV


class Canvas(NamedTuple):
    """Where unit positions lie in an image of `size` pixels; x_HW and y_HW are in units."""

    size: int
    scale: float  # pixels a unit, along y
    mirror: float  # 1 for right eyes, -1 for left ones
    x_HW: np.ndarray
    y_HW: np.ndarray

    @property
    def times(self) -> int:
        """How many times finer the grid of the shapes is."""
        return max(2, -(-FINE // self.size))

    def pixels(self, point_N2: np.ndarray) -> np.ndarray:
        """Return point_N2 in pixels of the image."""
        middle = (self.size - 1) / 2
        return middle + np.asarray(point_N2) * np.asarray((self.scale * self.mirror, self.scale))


def canvas(size: int, field: float, side: str) -> Canvas:
    """Return the surface of an image of `size` whose field spans `field` of it."""
    scale, mirror = field * size / 2, 1.0 if side == "R" else -1.0
    axis = ((np.arange(size) - (size - 1) / 2) / scale).astype(np.float32)
    x_HW, y_HW = np.meshgrid(axis * np.float32(mirror), axis)
    return Canvas(size, scale, mirror, x_HW, y_HW)


def cloud(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return smooth noise_HW of unit variance (about) with `cells` bumps a side."""
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def edge(distance_HW: np.ndarray, softness: float) -> np.ndarray:
    """Return 1 where `distance_HW` is below 1, falling to 0 over about `softness`."""
    return np.clip((1 - distance_HW) / softness + 0.5, 0.0, 1.0)


class Mask:
    """A mask of shapes on the fine grid."""

    def __init__(self, surface: Canvas) -> None:
        """Start with an empty mask."""
        self.surface = surface
        fine = surface.size * surface.times
        self.fine_HW = np.zeros((fine, fine), dtype=np.uint8)

    def _fixed(self, point_N2: np.ndarray) -> np.ndarray:
        pixel_N2 = self.surface.pixels(point_N2) * self.surface.times + (self.surface.times - 1) / 2
        return np.rint(pixel_N2 * (1 << SHIFT)).astype(np.int32)

    def lines(self, point_VS2: np.ndarray, width_VS: np.ndarray, piece: int) -> None:
        """Draw paths in pieces of one width, the fainter the thinner, each up to its first nan."""
        fine = self.surface.scale * self.surface.times
        start_P = np.arange(0, point_VS2.shape[1] - 1, piece)
        wide_VP = width_VS[:, start_P]
        depth_VP = np.minimum(1.0, (wide_VP / 0.02) ** 0.6) * np.clip(wide_VP * fine, 0.3, 1.0)
        value_VP = (255 * depth_VP).astype(int).tolist()
        pixels_VP = np.maximum(1, np.rint(wide_VP * fine)).astype(int).tolist()
        end_V = np.isfinite(point_VS2[..., 0]).sum(axis=1).tolist()
        fixed_VS2 = self._fixed(np.nan_to_num(point_VS2))
        starts = start_P.tolist()
        for row in np.argsort(width_VS[:, 0], kind="stable").tolist():  # thick over thin
            for index, start in enumerate(starts):
                stop = min(start + piece + 1, end_V[row])
                if stop - start < 2:
                    break
                cv2.polylines(
                    self.fine_HW, [fixed_VS2[row, start:stop]], False, value_VP[row][index],
                    pixels_VP[row][index], cv2.LINE_AA, SHIFT,
                )  # fmt: skip

    def fill(self, point_N2: np.ndarray, value: float = 1.0) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.fine_HW, [self._fixed(point_N2)], int(255 * value), cv2.LINE_AA, SHIFT)

    def done(self, blur: float = 0.0) -> np.ndarray:
        """Return the mask_HW in [0, 1] at the size of the image, blurred by `blur` units."""
        size = self.surface.size
        small_HW = cv2.resize(self.fine_HW, (size, size), interpolation=cv2.INTER_AREA)
        mask_HW = small_HW.astype(np.float32) * np.float32(1 / 255)
        return blurred(mask_HW, blur * self.surface.scale)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return `image` blurred by `sigma` pixels."""
    if sigma < 0.2:
        return image
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def shade(image_HWC: np.ndarray, mask_HW: np.ndarray, share: tuple[float, float, float]) -> None:
    """Take `share` of each colour away where `mask_HW` is 1, as a pigment does; in place."""
    for colour in range(3):
        image_HWC[..., colour] *= 1 - mask_HW * np.float32(share[colour])


def cover(image_HWC: np.ndarray, mask_HW: np.ndarray, colour: tuple[float, float, float]) -> None:
    """Mix `colour` in where `mask_HW` is 1; in place."""
    for index in range(3):
        layer_HW = image_HWC[..., index]
        layer_HW += mask_HW * (np.float32(colour[index]) - layer_HW)


TURN_N = np.linspace(0.0, 2 * np.pi, 14, endpoint=False)


def _random(plan: PhantomPlan, name: str) -> np.random.Generator:
    return np.random.default_rng([plan.seed, 3, zlib.crc32(name.encode())])


def _blot(
    rng: np.random.Generator, row: np.ndarray, rough: float, stretch: float = 1.0, turn: float = 0.0
) -> np.ndarray:
    """Return the outline point_N2 of an uneven spot within the circle (x, y, radius)."""
    x, y, radius = row
    raw_N = rng.normal(0.0, 1.0, len(TURN_N))
    smooth_N = (raw_N + np.roll(raw_N, 1)) * 0.6
    away_N = radius * np.clip(0.85 + rough * smooth_N, 0.3, 1.1)
    along_N, across_N = away_N * np.cos(TURN_N), away_N * np.sin(TURN_N) / stretch
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack(
        [x + along_N * cos - across_N * sin, y + along_N * sin + across_N * cos], axis=1
    )


def paint_deep(image_HWC: np.ndarray, plan: PhantomPlan, surface: Canvas) -> None:
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


def _haemorrhages(plan: PhantomPlan, surface: Canvas) -> np.ndarray:
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


def _tufts(plan: PhantomPlan, surface: Canvas) -> np.ndarray:
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


def _pool(plan: PhantomPlan, surface: Canvas) -> np.ndarray:
    """Return mask_HW of blood in front of the retina, with a level top."""
    x, y, radius = plan.lesions["preretinal haemorrhage"][0]
    turn_N = np.linspace(0.0, np.pi, 24)
    mask = Mask(surface)
    mask.fill(np.stack([x + radius * np.cos(turn_N), y + radius * 0.62 * np.sin(turn_N)], axis=1))
    return mask.done(0.005)


def paint_shallow(image_HWC: np.ndarray, plan: PhantomPlan, surface: Canvas) -> None:
    """Paint what lies before the vessels: exudates, bleeding, new vessels; in place."""
    lesions = plan.lesions
    if "soft exudates" in lesions:
        rng, mask = _random(plan, "soft exudates"), Mask(surface)
        for row in lesions["soft exudates"]:
            mask.fill(_blot(rng, row, 0.2, rng.uniform(1.1, 1.7), rng.uniform(0, np.pi)), 0.85)
        cover(image_HWC, mask.done(0.014), (0.97, 0.92, 0.74))
    if "hard exudates" in lesions:
        rng, mask = _random(plan, "hard exudates"), Mask(surface)
        for row in lesions["hard exudates"]:
            mask.fill(_blot(rng, row, 0.2))
        cover(image_HWC, mask.done(), (1.0, 0.90, 0.45))
    if "haemorrhages" in lesions:
        shade(image_HWC, _haemorrhages(plan, surface), (0.38, 0.68, 0.62))
    if "microaneurysms" in lesions:
        rng, mask = _random(plan, "microaneurysms"), Mask(surface)
        for row in lesions["microaneurysms"]:
            mask.fill(_blot(rng, row, 0.08))
        shade(image_HWC, mask.done(), (0.35, 0.72, 0.66))
    if "neovascularisation" in lesions:
        shade(image_HWC, _tufts(plan, surface), (0.25, 0.72, 0.66))
    if "preretinal haemorrhage" in lesions:
        shade(image_HWC, _pool(plan, surface), (0.45, 0.84, 0.8))


def paint_crescent(image_HWC: np.ndarray, plan: PhantomPlan, surface: Canvas) -> None:
    """Paint the bare, pale crescent on the temporal side of the disc; in place."""
    if "myopic crescent" not in plan.lesions:
        return
    x, y, radius = plan.lesions["myopic crescent"][0]
    uneven_HW = 0.05 * cloud(_random(plan, "myopic crescent"), surface.size, 14)
    distance_HW = np.hypot(surface.x_HW - x, (surface.y_HW - y) * 1.12) / radius + uneven_HW
    rim_HW = edge(distance_HW / 1.12, 0.2)
    shade(image_HWC, rim_HW, (0.2, 0.3, 0.3))
    cover(image_HWC, edge(distance_HW, 0.1) * np.float32(0.85), (1.08, 0.95, 0.72))


def pixels(
    plan: PhantomPlan, row: tuple[float, float, float] | list[float], size: int
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


def _background(plan: PhantomPlan, surface: Canvas) -> np.ndarray:
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


def _disc(image_HWC: np.ndarray, plan: PhantomPlan, surface: Canvas) -> None:
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


def _vessel_masks(plan: PhantomPlan, surface: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _vessels(image_HWC: np.ndarray, plan: PhantomPlan, surface: Canvas) -> None:
    """Paint the vessels, veins below arteries; in place."""
    arteries_HW, veins_HW, shine_HW = _vessel_masks(plan, surface)
    shade(image_HWC, veins_HW, (0.20, 0.38, 0.31))
    shade(image_HWC, arteries_HW, (0.06, 0.29, 0.28))
    cover(image_HWC, shine_HW * np.float32(0.25), (0.95, 0.65, 0.45))


def _cloud_over(image_HWC: np.ndarray, plan: PhantomPlan, surface: Canvas) -> np.ndarray:
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


def _expose(image_HWC: np.ndarray, plan: PhantomPlan, surface: Canvas) -> np.ndarray:
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


def render(plan: PhantomPlan, size: int) -> np.ndarray:
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

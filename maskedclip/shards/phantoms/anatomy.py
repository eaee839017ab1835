"""What a phantom shows before anything is drawn: vessels, anatomy, camera and lesions.

Positions are in units of the field of view's radius, centre at (0, 0), y down, and always those
of a right eye (disc at +x); the drawing mirrors left eyes. So size and side change no lesion.

Grades follow the international scale, and the lesions decide the grade: 1 microaneurysms only;
2 more than these; 3 haemorrhages in all four quadrants; 4 new vessels.
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


GRADES = ("0", "1", "2", "3", "4")


class Anatomy(NamedTuple):
    """Anatomy of one eye."""

    side: str  # "L" or "R"
    disc: tuple[float, float]
    disc_radius: float  # vertical
    cup_to_disc: float  # vertical
    fovea: tuple[float, float]
    colour: tuple[float, float, float]  # of the fundus, red green blue in [0, 1]
    tessellation: float  # how much of the choroid shows through
    macula: float  # darkness of the macula
    vessels: Vessels


class Camera(NamedTuple):
    """A camera and the conditions of one exposure."""

    name: str
    tint: tuple[float, float, float]
    field: float  # radius of the field of view, as a share of half the image
    cut: float  # half height of the field where it is cut off above and below; 1 is round
    blur: float  # standard deviation, in radii of the field
    noise: float  # standard deviation, of 255
    vignette: float
    exposure: float
    contrast: float
    glow: float  # brightness of a pale rim, as of a small pupil
    veil: float  # share of stray light


class PhantomPlan(NamedTuple):
    """Everything that decides the pixels of a phantom but its size."""

    seed: int
    disease: str
    grade: str
    eye: Anatomy
    camera: Camera
    haze: float  # cataract: 0 clear, 1 opaque
    crescent: float  # width of the crescent beside the disc, in disc radii; 0 is none
    beading: bool
    lesions: dict[str, np.ndarray]  # finding -> (x, y, radius) in rows


# name: tint, cut, blur, noise, vignette, exposure
CAMERAS: dict[str, tuple[tuple[float, float, float], float, float, float, float, float]] = {
    "warm": ((1.03, 1.0, 0.9), 1.0, 0.006, 1.5, 0.3, 0.92),
    "scarlet": ((1.06, 0.80, 0.45), 0.88, 0.007, 2.0, 0.4, 0.92),
    "pale": ((0.94, 1.0, 1.2), 1.0, 0.007, 1.5, 0.25, 0.92),
    "dim": ((0.98, 0.98, 0.8), 1.0, 0.008, 1.5, 0.6, 0.65),
    "handheld": ((1.0, 1.03, 0.9), 1.0, 0.012, 2.0, 0.55, 0.95),
    "golden": ((1.03, 1.06, 0.6), 0.93, 0.007, 2.0, 0.4, 0.95),
}


def choose_camera(rng: np.random.Generator) -> Camera:
    """Return one of the cameras under the conditions of one exposure."""
    name = str(rng.choice(list(CAMERAS)))
    tint, cut, blur, noise, vignette, exposure = CAMERAS[name]
    red, green, blue = np.asarray(tint) * np.exp(rng.normal(0.0, (0.05, 0.04, 0.1)))
    return Camera(
        name=name,
        tint=(float(red), float(green), float(blue)),
        field=float(rng.uniform(0.95, 1.0)),
        cut=cut,
        blur=min(0.015, blur * float(np.exp(rng.normal(0.0, 0.35)))),
        noise=noise * float(rng.uniform(0.6, 1.4)),
        vignette=vignette * float(rng.uniform(0.5, 1.5)),
        exposure=exposure * float(np.exp(rng.normal(0.0, 0.1))),
        contrast=float(rng.uniform(0.9, 1.2)),
        glow=float(rng.uniform(0.2, 0.7)) if rng.random() < 0.25 else 0.0,
        veil=float(rng.uniform(0.0, 0.12)),
    )


def choose_eye(seed: int, disease: str) -> Anatomy:
    """Return the anatomy of an eye with `disease`."""
    rng = np.random.default_rng([seed, 1])
    side = "R" if rng.random() < 0.5 else "L"
    centred = rng.uniform(0.0, 0.25)  # on the macula at 0, towards the disc above it
    fovea = (float(-centred + rng.normal(0.0, 0.03)), float(rng.normal(0.05, 0.04)))
    span = rng.uniform(0.58, 0.7)
    disc = (float(fovea[0] + span), float(fovea[1] - rng.uniform(0.02, 0.14)))
    cup_to_disc = rng.uniform(0.68, 0.88) if disease == "glaucoma" else rng.uniform(0.2, 0.45)
    myopic = disease == "pathologic myopia"
    pigment = rng.uniform(0.0, 1.0) * (0.3 if myopic else 1.0)
    pale, dark = np.asarray((0.80, 0.55, 0.36)), np.asarray((0.52, 0.30, 0.17))
    red, green, blue = pale + (dark - pale) * pigment
    if myopic:
        red, green, blue = 0.86, green * 0.88, blue * 0.85
    curl = rng.uniform(0.12, 0.22) if myopic else rng.uniform(0.16, 0.34)
    width = rng.uniform(0.015, 0.020) if myopic else rng.uniform(0.018, 0.025)
    return Anatomy(
        side=side,
        disc=disc,
        disc_radius=float(rng.uniform(0.125, 0.16)),
        cup_to_disc=float(cup_to_disc),
        fovea=fovea,
        colour=(float(red), float(green), float(blue)),
        tessellation=float(rng.uniform(0.7, 1.0) if myopic else max(0.0, rng.uniform(-0.4, 0.4))),
        macula=float(rng.uniform(0.12, 0.25) if myopic else rng.uniform(0.25, 0.5)),
        vessels=grow(seed, disc, fovea, float(curl), float(width)),
    )


def positions(
    rng: np.random.Generator,
    eye: Anatomy,
    count: int,
    centre: tuple[float, float],
    spread: float,
    clear: float = 0.0,
) -> np.ndarray:
    """Return up to `count` positions_K2 about `centre`, off disc and fovea, inside every field.

    Where `clear` is above 0, no position lies nearer than it to a vessel.
    """
    tried_K2 = np.asarray(centre) + rng.normal(0.0, spread, (6 * count + 20, 2))
    from_disc_K = np.hypot(*(tried_K2 - np.asarray(eye.disc)).T)
    fine_K = (np.hypot(*tried_K2.T) < 0.84) & (np.abs(tried_K2[:, 1]) < 0.74)
    fine_K &= from_disc_K > 1.5 * eye.disc_radius
    fine_K &= np.hypot(*(tried_K2 - np.asarray(eye.fovea)).T) > 0.05
    kept_K2 = tried_K2[fine_K]
    if clear > 0 and len(kept_K2):
        kept_K2 = kept_K2[: 3 * count + 20]
        vessel_P2 = eye.vessels.points_VS2[eye.vessels.width_VS[:, 0] > 0.008].reshape(-1, 2)
        x_P, y_P = vessel_P2[np.isfinite(vessel_P2[:, 0])].astype(np.float32).T
        x_K, y_K = kept_K2.astype(np.float32).T
        square_KP = (x_K[:, None] - x_P) ** 2 + (y_K[:, None] - y_P) ** 2
        kept_K2 = kept_K2[square_KP.min(axis=1) > clear**2]
    return kept_K2[:count]


def sized(rng: np.random.Generator, position_K2: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return rows (x, y, radius), radii skewed towards `low` and kept inside every field."""
    radius_K1 = low + (high - low) * rng.random((len(position_K2), 1)) ** 2
    room_K = np.minimum(0.95 - np.hypot(*position_K2.T), 0.84 - np.abs(position_K2[:, 1]))
    radius_K1 = np.minimum(radius_K1, room_K[:, None])
    return np.concatenate([position_K2, radius_K1], axis=1)


CENTRE = (0.0, 0.0)


def _quadrants(rng: np.random.Generator, eye: Anatomy, count: int) -> np.ndarray:
    """Return positions_K2, up to `count` in every quadrant about the fovea."""
    parts = []
    for right in (-1.0, 1.0):
        for down in (-1.0, 1.0):
            centre = (eye.fovea[0] + right * 0.38, eye.fovea[1] + down * 0.38)
            position_K2 = positions(rng, eye, 6 * count, centre, 0.17, 0.015)
            apart_K2 = (position_K2 - np.asarray(eye.fovea)) * np.asarray((right, down))
            parts.append(position_K2[(apart_K2 > 0.03).all(axis=1)][:count])
    return np.concatenate(parts)


def _hard_exudates(rng: np.random.Generator, eye: Anatomy) -> np.ndarray:
    """Return specks in a few clusters or rings near the macula."""
    rows = []
    for _ in range(rng.integers(1, 4)):
        angle, far = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.16, 0.42)
        centre = (eye.fovea[0] + far * np.cos(angle), eye.fovea[1] + far * np.sin(angle))
        count = int(rng.integers(6, 22))
        if rng.random() < 0.4:
            turn_K = rng.uniform(0.0, 2 * np.pi, count)
            ring = rng.uniform(0.06, 0.11)
            around_K2 = np.stack([np.cos(turn_K), np.sin(turn_K)], axis=1) * ring
            near_K2 = np.asarray(centre) + around_K2 + rng.normal(0.0, 0.012, (count, 2))
            keep_K = np.hypot(*(near_K2 - np.asarray(eye.disc)).T) > 1.4 * eye.disc_radius
            position_K2 = near_K2[keep_K & (np.hypot(*near_K2.T) < 0.82)]
        else:
            position_K2 = positions(rng, eye, count, centre, 0.06)
        rows.append(sized(rng, position_K2, 0.009, 0.026))
    return np.concatenate(rows)


def _new_vessels(rng: np.random.Generator, eye: Anatomy) -> np.ndarray:
    """Return tufts on the disc or beside the arcades."""
    rows = []
    if rng.random() < 0.5:
        angle = rng.uniform(0.0, 2 * np.pi)
        near = eye.disc_radius * 0.8
        rows.append(
            (
                eye.disc[0] - abs(np.cos(angle)) * near,
                eye.disc[1] + np.sin(angle) * near,
                rng.uniform(0.12, 0.16),
            )
        )
    for _ in range(int(rng.integers(1, 3))):
        up = rng.choice((-1.0, 1.0))
        rows.append((rng.uniform(-0.3, 0.35), up * rng.uniform(0.42, 0.6), rng.uniform(0.10, 0.15)))
    return np.asarray(rows)


def _retinopathy(rng: np.random.Generator, eye: Anatomy, grade: str) -> dict[str, np.ndarray]:
    """Return the lesions of a diabetic eye of `grade`."""
    level = int(grade)
    few, many = ((0, 0), (4, 12), (6, 16), (14, 28), (8, 20))[level]
    aneurysms = positions(rng, eye, int(rng.integers(few, many)), CENTRE, 0.42, 0.02)
    lesions = {"microaneurysms": sized(rng, aneurysms, 0.0095, 0.015)}
    if level >= 3:
        bleeding = _quadrants(rng, eye, int(rng.integers(5, 9)) if level == 3 else 2)
        lesions["haemorrhages"] = sized(rng, bleeding, 0.018, 0.065)
    elif level == 2:
        bleeding = positions(rng, eye, int(rng.integers(2, 9)), CENTRE, 0.4, 0.015)
        lesions["haemorrhages"] = sized(rng, bleeding, 0.016, 0.04)
    if level >= 2 and rng.random() < 0.7:
        lesions["hard exudates"] = _hard_exudates(rng, eye)
    soft = {2: 0.3, 3: 1.0, 4: 0.5}.get(level, 0.0)
    if rng.random() < soft:
        spots = positions(rng, eye, int(rng.integers(2, 6)), CENTRE, 0.4)
        lesions["soft exudates"] = sized(rng, spots, 0.035, 0.065)
    if level == 4:
        lesions["neovascularisation"] = _new_vessels(rng, eye)
        if rng.random() < 0.4:
            pool = (rng.uniform(-0.3, 0.3), rng.uniform(0.3, 0.5), rng.uniform(0.12, 0.2))
            lesions["preretinal haemorrhage"] = np.asarray([pool])
    return lesions


def _degeneration(rng: np.random.Generator, eye: Anatomy) -> dict[str, np.ndarray]:
    """Return drusen about the macula, and in some eyes an atrophic patch."""
    drusen = positions(rng, eye, int(rng.integers(40, 150)), eye.fovea, rng.uniform(0.13, 0.26))
    lesions = {"drusens": sized(rng, drusen, 0.010, 0.034)}
    if rng.random() < 0.25:
        patch = (eye.fovea[0], eye.fovea[1], rng.uniform(0.1, 0.18))
        lesions["geographical age related macular degeneration"] = np.asarray([patch])
    return lesions


def _myopia(rng: np.random.Generator, eye: Anatomy, crescent: float) -> dict[str, np.ndarray]:
    """Return the crescent beside the disc, and in some eyes patches of atrophy."""
    beside = eye.disc[0] - eye.disc_radius * (0.2 + crescent * 0.5)
    lesions = {
        "myopic crescent": np.asarray(
            [(beside, eye.disc[1], eye.disc_radius * (1 + crescent * 0.5))]
        )
    }
    if rng.random() < 0.6:
        spots = positions(rng, eye, int(rng.integers(1, 6)), eye.fovea, 0.25)
        lesions["chorioretinal atrophy"] = sized(rng, spots, 0.06, 0.22)
    return lesions


def choose_lesions(
    seed: int, disease: str, grade: str, eye: Anatomy, crescent: float
) -> dict[str, np.ndarray]:
    """Return lesion -> rows (x, y, radius) of an eye with `disease`; none where it is normal."""
    rng = np.random.default_rng([seed, 2])
    if disease == "diabetic retinopathy":
        lesions = _retinopathy(rng, eye, grade)
    elif disease == "age related macular degeneration":
        lesions = _degeneration(rng, eye)
    elif disease == "pathologic myopia":
        lesions = _myopia(rng, eye, crescent)
    elif disease == "glaucoma":
        lesions = {"large optic cup": np.asarray([(*eye.disc, eye.disc_radius * eye.cup_to_disc)])}
    else:
        lesions = {}
    return {name: rows for name, rows in lesions.items() if len(rows)}

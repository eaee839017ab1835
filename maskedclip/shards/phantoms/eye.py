"""What a phantom shows before anything is drawn: anatomy, camera, and the places of findings.

Positions are in units of the field of view's radius, centre at (0, 0), y down, and always those
of a right eye (disc at +x); the drawing mirrors left eyes. So size and side change no finding.
"""

from typing import NamedTuple

import numpy as np

from maskedclip.shards.phantoms.vessels import Vessels, grow

GRADES = ("0", "1", "2", "3", "4")


class Eye(NamedTuple):
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


class Plan(NamedTuple):
    """Everything that decides the pixels of a phantom but its size."""

    seed: int
    disease: str
    grade: str
    eye: Eye
    camera: Camera
    haze: float  # cataract: 0 clear, 1 nothing to be seen
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


def choose_eye(seed: int, disease: str) -> Eye:
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
    return Eye(
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


def places(
    rng: np.random.Generator,
    eye: Eye,
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


def sized(rng: np.random.Generator, places_K2: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return rows (x, y, radius), radii skewed towards `low` and kept inside every field."""
    radius_K1 = low + (high - low) * rng.random((len(places_K2), 1)) ** 2
    room_K = np.minimum(0.95 - np.hypot(*places_K2.T), 0.84 - np.abs(places_K2[:, 1]))
    radius_K1 = np.minimum(radius_K1, room_K[:, None])
    return np.concatenate([places_K2, radius_K1], axis=1)

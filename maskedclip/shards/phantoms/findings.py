"""Which findings a disease brings, and where: the lesions decide the grade, never the reverse.

The grades follow the international scale: 1 micro-aneurysms only; 2 more than these; 3 bleeding
in all four quadrants; 4 new vessels.
"""

import numpy as np

from maskedclip.shards.phantoms.eye import Eye, places, sized

CENTRE = (0.0, 0.0)


def _quadrants(rng: np.random.Generator, eye: Eye, each: int) -> np.ndarray:
    """Return positions_K2, at least `each` in every quadrant about the fovea."""
    parts = []
    for right in (-1.0, 1.0):
        for down in (-1.0, 1.0):
            centre = (eye.fovea[0] + right * 0.38, eye.fovea[1] + down * 0.38)
            found_K2 = places(rng, eye, 6 * each, centre, 0.17, 0.015)
            apart_K2 = (found_K2 - np.asarray(eye.fovea)) * np.asarray((right, down))
            parts.append(found_K2[(apart_K2 > 0.03).all(axis=1)][:each])
    return np.concatenate(parts)


def _hard_exudates(rng: np.random.Generator, eye: Eye) -> np.ndarray:
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
            found_K2 = near_K2[keep_K & (np.hypot(*near_K2.T) < 0.82)]
        else:
            found_K2 = places(rng, eye, count, centre, 0.06)
        rows.append(sized(rng, found_K2, 0.009, 0.026))
    return np.concatenate(rows)


def _new_vessels(rng: np.random.Generator, eye: Eye) -> np.ndarray:
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


def _retinopathy(rng: np.random.Generator, eye: Eye, grade: str) -> dict[str, np.ndarray]:
    """Return the lesions of a diabetic eye of `grade`."""
    level = int(grade)
    few, many = ((0, 0), (4, 12), (6, 16), (14, 28), (8, 20))[level]
    aneurysms = places(rng, eye, int(rng.integers(few, many)), CENTRE, 0.42, 0.02)
    found = {"microaneurysms": sized(rng, aneurysms, 0.0095, 0.015)}
    if level >= 3:
        bleeding = _quadrants(rng, eye, int(rng.integers(5, 9)) if level == 3 else 2)
        found["haemorrhages"] = sized(rng, bleeding, 0.018, 0.065)
    elif level == 2:
        bleeding = places(rng, eye, int(rng.integers(2, 9)), CENTRE, 0.4, 0.015)
        found["haemorrhages"] = sized(rng, bleeding, 0.016, 0.04)
    if level >= 2 and rng.random() < 0.7:
        found["hard exudates"] = _hard_exudates(rng, eye)
    soft = {2: 0.3, 3: 1.0, 4: 0.5}.get(level, 0.0)
    if rng.random() < soft:
        spots = places(rng, eye, int(rng.integers(2, 6)), CENTRE, 0.4)
        found["soft exudates"] = sized(rng, spots, 0.035, 0.065)
    if level == 4:
        found["neovascularisation"] = _new_vessels(rng, eye)
        if rng.random() < 0.4:
            pool = (rng.uniform(-0.3, 0.3), rng.uniform(0.3, 0.5), rng.uniform(0.12, 0.2))
            found["preretinal haemorrhage"] = np.asarray([pool])
    return found


def _degeneration(rng: np.random.Generator, eye: Eye) -> dict[str, np.ndarray]:
    """Return drusen about the macula, and in some eyes an atrophic patch."""
    drusen = places(rng, eye, int(rng.integers(40, 150)), eye.fovea, rng.uniform(0.13, 0.26))
    found = {"drusens": sized(rng, drusen, 0.010, 0.034)}
    if rng.random() < 0.25:
        patch = (eye.fovea[0], eye.fovea[1], rng.uniform(0.1, 0.18))
        found["geographical age related macular degeneration"] = np.asarray([patch])
    return found


def _myopia(rng: np.random.Generator, eye: Eye, crescent: float) -> dict[str, np.ndarray]:
    """Return the crescent beside the disc, and in some eyes patches of atrophy."""
    beside = eye.disc[0] - eye.disc_radius * (0.2 + crescent * 0.5)
    found = {
        "myopic crescent": np.asarray(
            [(beside, eye.disc[1], eye.disc_radius * (1 + crescent * 0.5))]
        )
    }
    if rng.random() < 0.6:
        spots = places(rng, eye, int(rng.integers(1, 6)), eye.fovea, 0.25)
        found["chorioretinal atrophy"] = sized(rng, spots, 0.06, 0.22)
    return found


def find(seed: int, disease: str, grade: str, eye: Eye, crescent: float) -> dict[str, np.ndarray]:
    """Return finding -> rows (x, y, radius) of an eye with `disease`; none where it is normal."""
    rng = np.random.default_rng([seed, 2])
    if disease == "diabetic retinopathy":
        found = _retinopathy(rng, eye, grade)
    elif disease == "age related macular degeneration":
        found = _degeneration(rng, eye)
    elif disease == "pathologic myopia":
        found = _myopia(rng, eye, crescent)
    elif disease == "glaucoma":
        found = {"large optic cup": np.asarray([(*eye.disc, eye.disc_radius * eye.cup_to_disc)])}
    else:
        found = {}
    return {name: rows for name, rows in found.items() if len(rows)}

"""Phantoms: drawn colour fundus images with known lesions, for tests; they are no photographs.

Every pixel follows from the seed, so a data set of phantoms is a range of numbers.
"""

from typing import NamedTuple

import numpy as np

from maskedclip.data.label_kinds import joined
from maskedclip.shards.phantoms.anatomy import (
    GRADES,
    PhantomPlan,
    choose_camera,
    choose_eye,
    choose_lesions,
)
from maskedclip.shards.phantoms.drawing import pixels, render

DISEASES = {  # and their frequencies
    "normal": 0.30,
    "diabetic retinopathy": 0.30,
    "glaucoma": 0.12,
    "age related macular degeneration": 0.10,
    "cataract": 0.09,
    "pathologic myopia": 0.09,
}
GRADE_NAMES = {
    "1": "mild diabetic retinopathy",
    "2": "moderate diabetic retinopathy",
    "3": "severe diabetic retinopathy",
    "4": "proliferative diabetic retinopathy",
}
# findings that the expert dictionary names otherwise, or ("") not at all
FINDING_NAMES = {"chorioretinal atrophy": "myopic maculopathy grade three", "myopic crescent": ""}
FINDINGS = (  # of an eye besides its disease, in the order of a table
    "microaneurysms", "haemorrhages", "hard exudates", "soft exudates", "neovascularisation",
    "preretinal haemorrhage", "drusens", "geographical age related macular degeneration",
    "large optic cup", "tessellation", "myopic maculopathy grade three", "media haze",
)  # fmt: skip


class Phantom(NamedTuple):
    """A drawn eye and its lesions, as (x, y, radius) in pixels."""

    image_HWC: np.ndarray  # uint8, red green blue, black outside the field of view
    categories: tuple[str, ...]
    labels: dict[str, str]  # task -> class
    lesions: dict[str, list[tuple[float, float, float]]]
    landmarks: dict[str, tuple[float, float, float]]  # "disc" and "macula"
    camera: str
    eye: str  # "L" or "R"
    cup_to_disc_ratio: float  # vertical

    @property
    def findings(self) -> str:
        """All that is drawn besides the disease, as a label of several (data/label_kinds.py)."""
        return joined(self.categories[1:], FINDINGS)


def _categories(plan: PhantomPlan) -> tuple[str, ...]:
    """Return the disease (of a diabetic eye its grade) and then every finding drawn."""
    disease = GRADE_NAMES.get(plan.grade, plan.disease)
    more = {"cataract": ("media haze",), "pathologic myopia": ("tessellation",)}
    names = (FINDING_NAMES.get(name, name) for name in plan.lesions)
    return (disease, *more.get(plan.disease, ()), *(name for name in names if name))


def plan(seed: int, disease: str | None = None) -> PhantomPlan:
    """Return all that decides the phantom of `seed` but its size.

    Raises ValueError for an unknown disease.
    """
    if disease is not None and disease not in DISEASES:
        raise ValueError(f"disease {disease!r}: use one of {', '.join(DISEASES)}")
    rng = np.random.default_rng([seed, 0])
    drawn = str(rng.choice(list(DISEASES), p=list(DISEASES.values())))
    grade, haze, width = str(rng.choice(GRADES[1:])), rng.uniform(0.35, 0.85), rng.uniform(0.4, 1.3)
    chosen = drawn if disease is None else disease
    diabetic = chosen == "diabetic retinopathy"
    eye = choose_eye(seed, chosen)
    crescent = float(width) if chosen == "pathologic myopia" else 0.0
    return PhantomPlan(
        seed=seed,
        disease=chosen,
        grade=grade if diabetic else "0",
        eye=eye,
        camera=choose_camera(rng),
        haze=float(haze) if chosen == "cataract" else 0.0,
        crescent=crescent,
        beading=diabetic and grade in ("3", "4"),
        lesions=choose_lesions(seed, chosen, grade, eye, crescent),
    )


def draw(seed: int, size: int = 224, disease: str | None = None) -> Phantom:
    """Return the phantom of `seed`, `size` pixels square; the disease is drawn where not given.

    Raises ValueError for an unknown disease or a size below 32.
    """
    if size < 32:
        raise ValueError(f"size {size}: use at least 32 pixels")
    planned = plan(seed, disease)
    eye = planned.eye
    return Phantom(
        image_HWC=render(planned, size),
        categories=_categories(planned),
        labels={
            "disease": planned.disease,
            "diabetic_retinopathy": planned.grade,
            "glaucoma": "glaucoma" if planned.disease == "glaucoma" else "no glaucoma",
        },
        lesions={
            name: [pixels(planned, row, size) for row in rows.tolist()]
            for name, rows in planned.lesions.items()
        },
        landmarks={
            "disc": pixels(planned, (*eye.disc, eye.disc_radius), size),
            "macula": pixels(planned, (*eye.fovea, 0.2), size),
        },
        camera=planned.camera.name,
        eye=eye.side,
        cup_to_disc_ratio=eye.cup_to_disc,
    )

"""Phantoms: what their labels say is what is drawn, and the same seed is the same image."""

import hashlib

import cv2
import numpy as np
import pytest

from maskedclip.data.captions import EXPERT
from maskedclip.shards.phantoms.drawing import render
from maskedclip.shards.phantoms.phantom import DISEASES, GRADE_NAMES, Phantom, draw, plan

SEEDS = range(12)


def _graded(grade: str) -> list[int]:
    """Return seeds whose diabetic phantom has `grade`."""
    seeds = [s for s in range(40) if plan(s, "diabetic retinopathy").grade == grade]
    assert seeds
    return seeds[:4]


def _inside(phantom: Phantom) -> np.ndarray:
    """Return mask_HW of the field of view, found from the image alone."""
    return (phantom.image_HWC.max(axis=-1) > 4).astype(np.uint8)


def test_the_same_seed_gives_the_same_bytes() -> None:
    for seed in (0, 1, 2**40):
        first, second = draw(seed), draw(seed)
        assert first.image_HWC.tobytes() == second.image_HWC.tobytes()
        assert first[1:] == second[1:]


def test_the_number_of_opencv_threads_changes_nothing() -> None:
    before = cv2.getNumThreads()
    images = []
    for threads in (1, 4):
        cv2.setNumThreads(threads)
        images.append(draw(7, 448).image_HWC.tobytes())
    cv2.setNumThreads(before)
    assert images[0] == images[1]


def test_seeds_differ_from_one_another() -> None:
    images = {hashlib.sha256(draw(seed, 64).image_HWC.tobytes()).hexdigest() for seed in range(30)}
    assert len(images) == 30


def test_an_image_is_a_square_of_bytes_with_black_around_the_field() -> None:
    for seed in SEEDS:
        phantom = draw(seed)
        assert phantom.image_HWC.shape == (224, 224, 3)
        assert phantom.image_HWC.dtype == np.uint8
        axis = np.arange(224) - 111.5
        outside_HW = np.hypot(axis[:, None], axis[None]) > 112.5
        assert not phantom.image_HWC[outside_HW].any()
        assert 0.6 < _inside(phantom).mean() < 0.8


def test_every_phantom_has_a_class_of_every_task() -> None:
    for seed in range(60):
        planned = plan(seed)
        labels = draw(seed, 32).labels
        assert labels["disease"] == planned.disease
        assert (labels["diabetic_retinopathy"] != "0") == (
            labels["disease"] == "diabetic retinopathy"
        )
        assert (labels["glaucoma"] == "glaucoma") == (labels["disease"] == "glaucoma")


def test_the_disease_asked_for_is_drawn() -> None:
    for disease in DISEASES:
        assert {draw(seed, 32, disease).labels["disease"] for seed in range(5)} == {disease}


def test_the_disease_drawn_at_random_is_what_it_would_be_if_asked_for() -> None:
    for seed in SEEDS:
        alone = draw(seed)
        asked = draw(seed, 224, alone.labels["disease"])
        assert alone.image_HWC.tobytes() == asked.image_HWC.tobytes()


def test_every_disease_and_every_grade_occurs() -> None:
    planned = [plan(seed) for seed in range(150)]
    assert {p.disease for p in planned} == set(DISEASES)
    assert {p.grade for p in planned} == {"0", "1", "2", "3", "4"}


def test_categories_are_words_of_the_expert_dictionary() -> None:
    for disease in DISEASES:
        for seed in range(15):
            categories = draw(seed, 32, disease).categories
            assert set(categories) <= set(EXPERT)
            assert len(set(categories)) == len(categories)


def test_a_normal_eye_carries_nothing() -> None:
    for seed in SEEDS:
        phantom = draw(seed, 32, "normal")
        assert phantom.categories == ("normal",)
        assert phantom.lesions == {}


@pytest.mark.parametrize(
    ("grade", "always", "never"),
    [
        (
            "1",
            {"microaneurysms"},
            {"haemorrhages", "hard exudates", "soft exudates", "neovascularisation"},
        ),
        ("2", {"microaneurysms", "haemorrhages"}, {"neovascularisation"}),
        ("3", {"microaneurysms", "haemorrhages", "soft exudates"}, {"neovascularisation"}),
        ("4", {"microaneurysms", "haemorrhages", "neovascularisation"}, set()),
    ],
)
def test_a_diabetic_eye_carries_its_grade_and_the_lesions_drawn(
    grade: str, always: set[str], never: set[str]
) -> None:
    for seed in _graded(grade):
        phantom = draw(seed, 64, "diabetic retinopathy")
        assert phantom.labels["diabetic_retinopathy"] == grade
        assert phantom.categories[0] == GRADE_NAMES[grade]
        assert set(phantom.categories[1:]) == set(phantom.lesions)
        assert always <= set(phantom.lesions)
        assert not never & set(phantom.lesions)


def test_grade_3_bleeds_in_all_four_quadrants() -> None:
    for seed in _graded("3"):
        phantom = draw(seed, 224, "diabetic retinopathy")
        x, y, _ = phantom.landmarks["macula"]
        quadrants = [(a > x, b > y) for a, b, _ in phantom.lesions["haemorrhages"]]
        assert all(quadrants.count((a, b)) >= 4 for a in (False, True) for b in (False, True))


def test_lesions_lie_inside_the_field_of_view() -> None:
    for disease in ("diabetic retinopathy", "age related macular degeneration"):
        for seed in range(8):
            phantom = draw(seed, 224, disease)
            field_HW = np.hypot(*np.mgrid[-111.5:112, -111.5:112]) < 112 * 0.9
            for places in phantom.lesions.values():
                for x, y, radius in places:
                    assert radius > 0.9
                    assert field_HW[round(y), round(x)]
                    assert 0.12 * 112 < y < 1.88 * 112


@pytest.mark.parametrize(
    ("disease", "finding", "brighter"),
    [
        ("diabetic retinopathy", "microaneurysms", False),
        ("diabetic retinopathy", "haemorrhages", False),
        ("diabetic retinopathy", "neovascularisation", False),
        ("diabetic retinopathy", "preretinal haemorrhage", False),
        ("diabetic retinopathy", "hard exudates", True),
        ("diabetic retinopathy", "soft exudates", True),
        ("age related macular degeneration", "drusens", True),
        ("pathologic myopia", "chorioretinal atrophy", True),
        ("pathologic myopia", "myopic crescent", True),
    ],
)
def test_a_finding_is_seen_where_it_is_said_to_be(
    disease: str, finding: str, brighter: bool
) -> None:
    seeds = [s for s in range(40) if finding in plan(s, disease).lesions][:3]
    assert seeds
    for seed in seeds:
        planned = plan(seed, disease)
        others = {name: rows for name, rows in planned.lesions.items() if name != finding}
        with_HW = render(planned, 224)[..., 1].astype(float)
        without_HW = render(planned._replace(lesions=others), 224)[..., 1].astype(float)
        near_HW = np.zeros((224, 224), dtype=np.uint8)
        for x, y, radius in draw(seed, 224, disease).lesions[finding]:
            cv2.circle(near_HW, (round(x), round(y)), round(radius * 1.2 + 8), 1, -1)
        change_HW = (with_HW - without_HW) * (1 if brighter else -1)
        assert change_HW.max() > 6
        assert np.abs(change_HW[near_HW == 0]).max() <= 3
        assert change_HW[near_HW == 1].mean() > 0


def test_the_cup_to_disc_ratio_separates_glaucoma() -> None:
    for seed in range(40):
        assert plan(seed, "glaucoma").eye.cup_to_disc > 0.65
        for disease in DISEASES.keys() - {"glaucoma"}:
            assert plan(seed, disease).eye.cup_to_disc < 0.5
    phantom = draw(3, 224, "glaucoma")
    _, _, disc = phantom.landmarks["disc"]
    _, _, cup = phantom.lesions["large optic cup"][0]
    assert cup / disc == pytest.approx(phantom.cup_to_disc_ratio)


def test_a_glaucomatous_disc_is_paler_than_the_same_eye_without() -> None:
    for seed in range(6):
        ill, well = draw(seed, 224, "glaucoma"), draw(seed, 224, "normal")
        x, y, radius = ill.landmarks["disc"]
        mask_HW = np.zeros((224, 224), dtype=np.uint8)
        cv2.circle(mask_HW, (round(x), round(y)), round(radius * 0.6), 1, -1)
        assert ill.image_HWC[mask_HW == 1, 1].mean() > well.image_HWC[mask_HW == 1, 1].mean() + 3


def test_the_eye_says_on_which_side_the_disc_lies() -> None:
    sides = set()
    for seed in SEEDS:
        phantom = draw(seed, 224, "normal")
        x, y, radius = phantom.landmarks["disc"]
        macula_x, _, _ = phantom.landmarks["macula"]
        assert (x > 111.5) == (x > macula_x) == (phantom.eye == "R")
        sides.add(phantom.eye)
        green_HW = phantom.image_HWC[..., 1].astype(float)
        contrast = []
        for at in (x, 223 - x):
            disc_HW = np.hypot(*(np.mgrid[:224, :224] - np.reshape((y, at), (2, 1, 1)))) / radius
            around_HW = (disc_HW > 1.3) & (disc_HW < 2) & (green_HW > 4)
            contrast.append(green_HW[disc_HW < 0.9].mean() / green_HW[around_HW].mean())
        assert contrast[0] > contrast[1]
    assert sides == {"L", "R"}


def test_a_cataract_takes_the_contrast_away() -> None:
    for seed in SEEDS:
        contrast = []
        for disease in ("cataract", "normal"):
            green_HW = draw(seed, 224, disease).image_HWC[60:164, 60:164, 1].astype(np.float32)
            detail_HW = cv2.GaussianBlur(green_HW, (0, 0), 1.5) - cv2.GaussianBlur(
                green_HW, (0, 0), 6
            )
            contrast.append(float(detail_HW.std() / green_HW.mean()))
        assert contrast[0] < 0.8 * contrast[1]


def test_size_changes_neither_findings_nor_looks() -> None:
    for seed in range(4):
        small, large = draw(seed, 112), draw(seed, 448)
        assert small.labels == large.labels
        for name, places in small.lesions.items():
            # pixel centres lie half a pixel inside the corner that sizes share
            scaled = np.add(large.lesions[name], (0.5, 0.5, 0)) / 4
            assert np.allclose(np.add(places, (0.5, 0.5, 0)), scaled)
        reduced_HWC = cv2.resize(large.image_HWC, (112, 112), interpolation=cv2.INTER_AREA)
        apart = np.abs(reduced_HWC.astype(float) - small.image_HWC).mean()
        assert apart < 6


def test_several_cameras_are_used() -> None:
    assert len({plan(seed).camera.name for seed in range(60)}) == 6


def test_an_unknown_disease_or_a_tiny_size_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of normal"):
        draw(0, 224, "gout")
    with pytest.raises(ValueError, match="at least 32"):
        draw(0, 16)

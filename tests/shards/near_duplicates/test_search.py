"""A copy is found however it was turned, cropped or lit; the other eye is none."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.near_duplicates.descriptors import (
    LENGTH,
    VARIANTS,
    describe,
    dihedral,
    placement,
)
from maskedclip.shards.near_duplicates.search import (
    DescribedSet,
    NearDuplicate,
    candidates,
    describe_all,
    likely_pairs,
    near_duplicates,
    variant_of,
)
from maskedclip.shards.phantoms.phantom import draw

SIDE = 192
EYES = [draw(number, SIDE).image_HWC for number in range(12)]


def described(folder: Path, images: list[np.ndarray]) -> DescribedSet:
    folder.mkdir()
    jpegs = [encode(np.ascontiguousarray(image_HWC), 92) for image_HWC in images]
    return describe_all(jpegs.__getitem__, len(jpegs), folder, 2, lambda _: None)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> DescribedSet:
    return described(tmp_path_factory.mktemp("eyes") / "d", EYES)


def copies(first: DescribedSet, second: DescribedSet) -> list[NearDuplicate]:
    pairs = likely_pairs(first, second, 2, lambda _: None)
    return list(near_duplicates(first, second, pairs, 2, lambda _: None))


def turned(image_HWC: np.ndarray, degrees: float) -> np.ndarray:
    middle = (len(image_HWC) - 1) / 2
    matrix_23 = cv2.getRotationMatrix2D((middle, middle), degrees, 1)
    return cv2.warpAffine(image_HWC, matrix_23, image_HWC.shape[:2])


def compressed(image_HWC: np.ndarray) -> np.ndarray:
    small_HWC = cv2.resize(image_HWC, (140, 140), interpolation=cv2.INTER_AREA)
    return simplejpeg.decode_jpeg(encode(small_HWC, 50), "RGB")


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, bool]] = {
    "as it is": (lambda x: x, 0, False),
    "compressed": (compressed, 0, False),
    "quarter turn": (lambda x: np.rot90(x), 90, False),
    "mirrored": (lambda x: x[:, ::-1], 0, True),
    "flipped": (lambda x: x[::-1], 180, True),
    "turned": (lambda x: turned(x, 20), 20, False),
    "cropped": (lambda x: x[14:174, 18:178], 0, False),
    "dark": (lambda x: (255 * (x / 255.0) ** 1.4 * 0.7).astype(np.uint8), 0, False),
    "mirrored and turned": (lambda x: turned(x[:, ::-1], -65), -65, True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found_and_how_it_was_changed(
    eyes: DescribedSet, tmp_path: Path, name: str
) -> None:
    change, angle, mirrored = CHANGES[name]
    chosen = [1, 4, 7]
    found = copies(eyes, described(tmp_path / "d", [change(EYES[i]) for i in chosen]))
    certain = {(copy.first, copy.second): copy for copy in found if copy.certain}
    assert certain.keys() == {(i, k) for k, i in enumerate(chosen)}
    for copy in certain.values():
        assert copy.score > 0.25
        assert copy.mirrored == mirrored
        assert abs((copy.angle - angle + 180) % 360 - 180) < 2
    scale = np.mean([copy.scale for copy in certain.values()])
    assert scale == pytest.approx(1.2 if name == "cropped" else 1.0, abs=0.03)


def test_other_eyes_and_the_fellow_eye_are_no_copies(eyes: DescribedSet) -> None:
    assert [copy for copy in copies(eyes, eyes) if copy.certain] == []


def test_two_pictures_without_detail_are_never_certain(tmp_path: Path) -> None:
    row_HW, column_HW = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    field_HW = (row_HW**2 + column_HW**2 < 90**2).astype(float)
    generator = np.random.default_rng(0)
    images = [
        (field_HW * (120 + 0.1 * column_HW + generator.normal(0, 1.5, field_HW.shape))).clip(0, 255)
        for _ in range(3)
    ]
    blank = described(tmp_path / "d", [np.dstack([x] * 3).astype(np.uint8) for x in images])
    assert [copy for copy in copies(blank, blank) if copy.certain] == []


def test_another_exposure_of_an_eye_is_not_certain(tmp_path: Path) -> None:
    """The camera moved: the vessels lie elsewhere in the field, whose edge stays."""
    row_HW, column_HW = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    field_HW1 = (row_HW**2 + column_HW**2 < 84**2)[..., None]
    still = [image_HWC * field_HW1 for image_HWC in EYES[:4]]
    moved = [np.roll(image_HWC, 5, axis=1) * field_HW1 for image_HWC in EYES[:4]]
    found = copies(described(tmp_path / "a", still), described(tmp_path / "b", moved))
    assert {(copy.first, copy.second) for copy in found} == {(i, i) for i in range(4)}
    assert {copy.reason for copy in found} == {"another exposure of the same eye"}


def test_a_variant_is_the_photograph_at_the_place_that_is_said_of_it() -> None:
    small_HWC = cv2.resize(EYES[0], (96, 96), interpolation=cv2.INTER_AREA)
    descriptor_VD, order_8D = describe(small_HWC), dihedral()
    for variant in range(0, 8 * VARIANTS, 5):
        matrix_23 = placement(variant, 96)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen_D = describe(cv2.warpAffine(small_HWC, matrix_23, (96, 96), flags=flags))[0]
        cosine_V8 = descriptor_VD[:, order_8D] @ seen_D
        assert cosine_V8.argmax() == variant
        assert cosine_V8.max() > 0.8


def test_candidates_are_the_nearest_of_all_variants_either_way(eyes: DescribedSet) -> None:
    noise_NVD = np.random.default_rng(0).normal(0, 0.06, (12, VARIANTS, LENGTH))
    first_NVD = (eyes.descriptor_NVD + noise_NVD).astype(np.float16)
    second_NVD = eyes.descriptor_NVD
    every_NWD = first_NVD.astype(np.float32)[:, :, dihedral()].reshape(12, -1, LENGTH)
    cosine_NWM = every_NWD @ second_NVD[:, 0].astype(np.float32).T
    cosine_NM = cosine_NWM.max(axis=1)
    expected = {(n, m) for n in range(12) for m in np.argsort(cosine_NM[n])[-2:]}
    expected |= {(n, m) for m in range(12) for n in np.argsort(cosine_NM[:, m])[-2:]}
    found = list(
        candidates(first_NVD, second_NVD, 2, same=False, workers=2, progress=lambda _: None)
    )
    assert {(pair.first, pair.second) for pair in found} == expected
    for pair in found:
        assert pair.cosine == pytest.approx(cosine_NM[pair.first, pair.second], abs=1e-5)
        variant = variant_of(first_NVD[pair.first], second_NVD[pair.second])
        assert variant == cosine_NWM[pair.first, :, pair.second].argmax()

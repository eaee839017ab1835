import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, resized_crop

from maskedclip.data.phantoms.phantom import draw
from maskedclip.data.transforms import PIXEL_LIMIT, TRIES, crop_box, crop_of, hidden_patches

AREA = (0.2, 1.0)


def numbers(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((TRIES, 4))


def jpeg_of(image_HWC: np.ndarray, **form) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image_HWC).save(content, "JPEG", **form)
    return content.getvalue()


FORMS = {
    "4:2:0": {"quality": 95},
    "4:2:2": {"quality": 90, "subsampling": 1},
    "4:4:4": {"quality": 90, "subsampling": 0},
    "progressive": {"quality": 90, "progressive": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", [96, 161, 333])
def test_exact_has_the_bits_of_pillow_and_torchvision(form: str, side: int) -> None:
    jpeg = jpeg_of(draw(3, side).image_HWC, **FORMS[form])
    for seed in range(5):
        ours_HWC = crop_of(jpeg, 64, AREA, numbers(seed), "exact")
        top, left, height, width = crop_box(side, side, 64, AREA, numbers(seed))
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        theirs = resized_crop(image, top, left, height, width, [64, 64], InterpolationMode.BICUBIC)
        assert (ours_HWC == np.asarray(theirs)).all()


@pytest.mark.parametrize("fidelity", ["exact", "fine", "fast"])
def test_bytes_that_are_no_whole_jpeg_are_a_value_error(fidelity: str) -> None:
    whole = jpeg_of(draw(0, 96).image_HWC)
    for content in (b"", b"no JPEG", whole[:100], whole[: len(whole) // 2]):
        with pytest.raises(ValueError):  # noqa: PT011 (libjpeg's words)
            crop_of(content, 32, AREA, numbers(0), fidelity)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    jpeg = bytearray(simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = (40000).to_bytes(2, "big") * 2
    with pytest.raises(ValueError, match=f"more than {PIXEL_LIMIT:,}"):
        crop_of(bytes(jpeg), 32, AREA, numbers(0), "fine")


def test_every_row_hides_the_patches_of_its_lowest_draws() -> None:
    draw_BN = np.random.default_rng(0).random((500, 16))
    for ratio, count in ((0.75, 12), (0.5, 8), (0.0, 0), (1.0, 16)):
        hidden_BN = hidden_patches(draw_BN, ratio)
        assert (hidden_BN.sum(axis=1) == count).all()
        shown_BN = np.where(hidden_BN, np.inf, draw_BN)
        assert (np.where(hidden_BN, draw_BN, -1).max(axis=1) <= shown_BN.min(axis=1)).all()
        assert abs(hidden_BN.mean(axis=0) - ratio).max() < 0.1

import io
from functools import lru_cache

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode, is_fake
from torchvision.transforms.functional import InterpolationMode, resized_crop

from maskedclip.data.transforms import (
    MEAN,
    PIXEL_LIMIT,
    STD,
    TRIES,
    crop_box,
    crop_of,
    cut,
    denormalise,
    hidden_patches,
    normalise,
)
from maskedclip.shards.phantoms.phantom import draw
from tests.real_data import real

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


def test_exact_has_the_bits_of_pillow_for_a_grey_picture() -> None:
    jpeg = jpeg_of(draw(3, 96).image_HWC[:, :, 1])
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    top, left, height, width = crop_box(96, 96, 64, AREA, numbers(0))
    theirs = image.crop((left, top, left + width, top + height))
    theirs = theirs.resize((64, 64), Image.Resampling.BICUBIC)
    assert (crop_of(jpeg, 64, AREA, numbers(0), "exact") == np.asarray(theirs)).all()


def decibels(ours_HWC: np.ndarray, exact_HWC: np.ndarray) -> float:
    difference_HWC = ours_HWC.astype(float) - exact_HWC
    return float(10 * np.log10(255**2 / max(1e-9, (difference_HWC**2).mean())))


def losses(jpegs: list[bytes], size: int, fidelity: str) -> np.ndarray:
    pairs = [
        [crop_of(jpeg, size, AREA, numbers(seed), mode) for mode in (fidelity, "exact")]
        for seed, jpeg in enumerate(jpegs)
    ]
    return np.array([decibels(ours_HWC, exact_HWC) for ours_HWC, exact_HWC in pairs])


@lru_cache
def noisy_phantoms(side: int) -> list[bytes]:
    """Phantoms with the noise of a camera, which no filter keeps by chance.

    Above 512 pixels they are as sharp as a camera's optics, not as a drawing.
    """
    noise = np.random.default_rng(side)
    jpegs = []
    for seed in range(3):
        picture = Image.fromarray(draw(seed, min(side, 512)).image_HWC).resize((side, side))
        noisy_HWC = np.asarray(picture) + noise.normal(0, 3.5, (side, side, 3))
        jpegs.append(jpeg_of(noisy_HWC.clip(0, 255).astype(np.uint8), quality=95))
    return jpegs


@pytest.mark.parametrize(("side", "size"), [(256, 224), (512, 224), (1024, 224), (1024, 112)])
def test_fine_loses_at_most_what_50_db_allow_on_noisy_phantoms(side: int, size: int) -> None:
    found = losses(noisy_phantoms(side) * 8, size, "fine")
    assert found.mean() > 52
    assert found.min() > (49 if size == 112 else 50)  # drawn lines of a pixel at 112


@pytest.mark.parametrize("size", [224, 112])
def test_fast_keeps_40_db(size: int) -> None:
    found = losses(noisy_phantoms(1024) * 8, size, "fast")
    assert found.min() > 40
    assert found.mean() > 44


@pytest.mark.parametrize("folder", ["odir5k", "eyepacs_subset", "diaretdb1_codras", "idrid"])
def test_fine_loses_at_most_what_50_db_allow_on_photographs(folder: str) -> None:
    paths = sorted(p for p in real(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    found = losses([p.read_bytes() for p in paths[:: max(1, len(paths) // 30)]], 224, "fine")
    assert found.min() > 50


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_is_decoded_at_the_smallest_scale_that_its_fidelity_allows(seed: int) -> None:
    jpeg = noisy_phantoms(512)[0]
    _, _, height, width = crop_box(512, 512, 48, AREA, numbers(seed))
    for fidelity, room in (("exact", 9999), ("fine", 1.25), ("fast", 1)):
        shape = cut(jpeg, 48, AREA, numbers(seed), fidelity).shape[:2]
        factor = height // shape[0]
        assert (height, width) == (shape[0] * factor, shape[1] * factor)
        assert factor == 1 or min(shape) >= 48 * room
        assert factor == 8 or min(shape) < 2 * 48 * room


def test_crops_have_the_shares_and_aspects_of_inception() -> None:
    boxes = np.array([crop_box(1000, 1000, 100, AREA, numbers(seed)) for seed in range(2000)])
    top, left, height, width = boxes.T
    assert (boxes >= 0).all()
    assert max((top + height).max(), (left + width).max()) <= 1000
    share, aspect = height * width / 1e6, width / height
    assert np.abs(np.quantile(share, [0, 0.5, 1]) - [0.2, 0.57, 1]).max() < 0.05
    assert 0.73 < aspect.min() < 0.77
    assert 1.3 < aspect.max() < 1.36
    assert (boxes % 2 == 0).all()  # of at least four times the size, each


def test_a_very_long_picture_is_cut_in_its_middle() -> None:
    assert crop_box(10, 400, 64, (0.9, 1.0), numbers(0)) == (0, 193, 10, 13)


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


def test_a_plan_made_of_fake_tensors_leaves_real_steps_of_the_process_as_they_were() -> None:
    image_BCHW = torch.full((2, 3, 4, 4), 128, dtype=torch.uint8)
    with FakeTensorMode() as mode:  # before any real step, and after one
        assert is_fake(normalise(mode.from_tensor(image_BCHW), std=(0.5, 0.25, 0.125)))
    real_BCHW = normalise(image_BCHW, std=(0.5, 0.25, 0.125))
    assert not is_fake(real_BCHW)
    assert real_BCHW.isfinite().all()
    with FakeTensorMode() as mode:
        assert is_fake(normalise(mode.from_tensor(image_BCHW), std=(0.5, 0.25, 0.125)))
    assert normalise(image_BCHW, std=(0.5, 0.25, 0.125)).equal(real_BCHW)


def test_values_are_normalised_and_mirrored_on_the_device_from_uint8() -> None:
    image_BHWC = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    image_BCHW = image_BHWC.permute(0, 3, 1, 2)  # channels last, as the stream gives it
    flip_B = torch.tensor([True, False, True])
    found = normalise(image_BCHW, flip_B)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(found[1], (image_BCHW[1] / 255 - mean) / std, atol=1e-5)
    assert found[0].equal(normalise(image_BCHW[:1].flip(-1))[0])
    assert torch.allclose(denormalise(found[1]) * 255, image_BCHW[1].float(), atol=1e-3)

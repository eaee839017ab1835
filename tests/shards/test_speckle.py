"""Copies of images without a round field are found by speckle, and other exposures are none."""

import cv2
import numpy as np
import pytest

from maskedclip.shards.building.prepare_sample import encode, field_photograph
from maskedclip.shards.check import CheckRequest, check
from maskedclip.shards.make import build
from maskedclip.shards.near_duplicates.search import NearDuplicate
from maskedclip.shards.near_duplicates.speckle import (
    UNCLEAR,
    describe_all,
    likely_pairs,
    near_duplicates,
)
from tests.bscans import CARD, FINDINGS, bscan, write_bscans
from tests.end_to_end.test_other_modalities import request

SCANS, HEIGHT, WIDTH = 18, 248, 384


def drawn(seed: int, exposure: int = 0) -> np.ndarray:
    return bscan(seed, FINDINGS[seed % 3], HEIGHT, WIDTH, exposure)


def file(image_HWC: np.ndarray, quality: int = 0) -> bytes:
    """Return a JPEG of this quality, or a PNG."""
    ending, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality]) if quality else (".png", [])
    return cv2.imencode(ending, image_HWC[..., ::-1], options)[1].tobytes()


def resized(image_HWC: np.ndarray, scale: float) -> np.ndarray:
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image_HWC, None, fx=scale, fy=scale, interpolation=kind)


def shifted(image_HWC: np.ndarray, share: float) -> np.ndarray:
    matrix_23 = np.array([[1, 0, share * WIDTH], [0, 1, -share * HEIGHT]], np.float32)
    return cv2.warpAffine(image_HWC, matrix_23, (WIDTH, HEIGHT))


COPIES = {
    "recompressed": lambda image_HWC: file(image_HWC, 40),
    "half as large": lambda image_HWC: file(resized(image_HWC, 0.5)),
    "larger and compressed": lambda image_HWC: file(resized(image_HWC, 1.5), 80),
    "shifted a little": lambda image_HWC: file(shifted(image_HWC, 0.03)),
    "shifted, compressed": lambda image_HWC: file(shifted(image_HWC, -0.08), 70),
    "brighter": lambda image_HWC: file(np.clip(image_HWC * 1.3, 0, 255).astype(np.uint8)),
    "mirrored": lambda image_HWC: file(image_HWC[:, ::-1]),
}


def found(first: list[bytes], second: list[bytes], tmp_path_factory) -> list[NearDuplicate]:
    sets = []
    for files in (first, second):
        stored = [
            encode(np.ascontiguousarray(field_photograph(one, 512, whole=True).image_HWC), 95)
            for one in files
        ]
        folder = tmp_path_factory.mktemp("speckle")
        sets.append(describe_all(stored.__getitem__, len(stored), folder, 1, id))
    pairs = likely_pairs(*sets, 1, id)
    return list(near_duplicates(*sets, pairs, 1, id))


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    return [file(drawn(seed)) for seed in range(SCANS)]


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_nothing_else(kind: str, originals: list[bytes], tmp_path_factory):
    copies = [COPIES[kind](drawn(seed)) for seed in range(SCANS)]
    matches = found(originals, copies, tmp_path_factory)
    assert [(match.first, match.second) for match in matches] == [(n, n) for n in range(SCANS)]
    assert all(match.certain and match.mirrored == (kind == "mirrored") for match in matches)


def test_another_exposure_of_the_same_layers_is_no_copy(originals, tmp_path_factory):
    others = [file(drawn(seed, exposure=1)) for seed in range(SCANS)]
    assert not found(originals, others, tmp_path_factory)


def test_check_shards_finds_copies_of_bscans_and_no_others(tmp_path):
    card = write_bscans(tmp_path, {"train": 12, "test": 6})
    folder = tmp_path / "others" / "test" / "normal"
    folder.mkdir(parents=True)
    original_HWC = bscan(1, "normal")
    (folder / "9001.png").write_bytes(file(original_HWC, 60))
    (folder / "9002.png").write_bytes(file(bscan(1, "normal", exposure=1)))
    (folder / "9003.png").write_bytes(file(bscan(9003, "normal")))
    second = tmp_path / "second.toml"
    second.write_text(CARD.replace("drawn_bscans", "second"))
    for name, images in ((card, "images"), (second, "others")):
        build(request(name, tmp_path / images, tmp_path / "built" / name.stem), progress=False)
    asked = CheckRequest(
        directories=(tmp_path / "built" / card.stem,), against=(tmp_path / "built" / "second",),
        out=tmp_path / "check", workers=1,
    )  # fmt: skip
    (pair,) = check(asked, progress=False).pairs
    assert pair.kind == "near"
    sources = [one.sample.metadata.source for one in (pair.one, pair.other)]
    assert sorted(source.rsplit("/", 1)[1] for source in sources) == ["0001.png", "9001.png"]
    assert pair.match is not None
    assert pair.match.score > UNCLEAR

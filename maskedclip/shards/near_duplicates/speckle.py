"""Find copies of images without a round field, such as B-scans, by their speckle.

The layers of two B-scans lie on each other as well as those of a copy do, and no edge of a field
tells exposures apart. What two exposures never share is speckle: the finest structure of all, noise
included. Its amplitude spectrum does not change as an image is shifted, so
spectra find candidates; where the speckle of both correlates at some shift they are one exposure.
Mirrored copies are looked for, too; turned ones and those of another scale in the square are not.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from maskedclip.shards.near_duplicates.descriptors import decode_square
from maskedclip.shards.near_duplicates.search import Likely, NearDuplicate, Progress, Read

SIDE = 192  # pixels
NEAREST = 2  # images of the other set that each one is compared with
# How these limits were found is in docs/leakage.md.
NEAR, UNCLEAR = 0.35, 0.2  # correlation of the speckle at the best shift
_BAND = 47  # frequencies either way, of SIDE pixels: above are what compression takes
_MOST = 0.15  # of the local brightness
_LEVELS = 800  # of int8 for one unit of speckle
_DARK = 8  # of 255: the square beside an image
_ROWS = 512  # compared at a time
_CHUNK = 1024


class SpeckledSet(NamedTuple):
    """A set of images: their speckle, and its spectra, on files."""

    speckle_NHW: np.ndarray  # int8
    spectrum_NFF: np.ndarray  # float16, of unit length


def speckle(image_HWC: np.ndarray) -> np.ndarray:
    """Return speckle_HW, float32, a share of the local brightness; 0 beside the image."""
    grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine_HW = _without_blur(grey_HW) / (cv2.GaussianBlur(grey_HW, (0, 0), 6) + 16)
    # cut off: a bright layer's edge, which another exposure has too, would outweigh all else
    return np.clip(_without_blur(fine_HW), -_MOST, _MOST) * _inside(grey_HW)


def _without_blur(value_HW: np.ndarray) -> np.ndarray:
    return value_HW - cv2.GaussianBlur(value_HW, (0, 0), 1.2)


def _inside(grey_HW: np.ndarray) -> np.ndarray:
    """Return 1 in the image, well away from the edge to the square that it lies in."""
    lit_HW = cv2.GaussianBlur(grey_HW, (0, 0), 2) > _DARK
    inside_HW = np.zeros(lit_HW.shape, np.float32)
    if lit_HW.any():
        rows, columns = (np.flatnonzero(lit_HW.any(axis=axis)) for axis in (1, 0))
        margin = 4
        inside_HW[
            rows[0] + margin : rows[-1] + 1 - margin, columns[0] + margin : columns[-1] + 1 - margin
        ] = 1
    return inside_HW


def spectrum(speckle_HW: np.ndarray) -> np.ndarray:
    """Return spectrum_FF, of unit length: log amplitudes, what is smooth in them taken out."""
    wave_FF = np.fft.fftshift(np.abs(np.fft.rfft2(speckle_HW)), axes=0)
    middle = SIDE // 2
    wave_FF = np.log(wave_FF[middle - _BAND : middle + _BAND + 1, 1 : _BAND + 1] + 1e-3)
    wave_FF = wave_FF.astype(np.float32)
    wave_FF -= cv2.GaussianBlur(wave_FF, (0, 0), 6)
    wave_FF -= wave_FF.mean()
    return wave_FF / (np.linalg.norm(wave_FF) + 1e-6)


def describe_all(read: Read, count: int, folder: Path, workers: int, done: Progress) -> SpeckledSet:
    """Return the speckle of `count` stored images, kept in files of `folder`."""
    speckle_NHW = np.memmap(folder / "speckle", np.int8, "w+", shape=(count, SIDE, SIDE))
    shape = (count, 2 * _BAND + 1, _BAND)
    spectrum_NFF = np.memmap(folder / "spectra", np.float16, "w+", shape=shape)

    def describe_one(index: int) -> None:
        found_HW = speckle(decode_square(read(index), SIDE))
        speckle_NHW[index] = np.clip(np.round(found_HW * _LEVELS), -127, 127)
        spectrum_NFF[index] = spectrum(found_HW)
        done(1)

    for start in range(0, count, _CHUNK):
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(describe_one, range(start, min(start + _CHUNK, count))))
    return SpeckledSet(*map(np.asarray, (speckle_NHW, spectrum_NFF)))


def likely_pairs(first: SpeckledSet, second: SpeckledSet, workers: int, done: Progress) -> Likely:
    """Return the pairs of nearest spectra, and of each whether it is with the mirrored image.

    first and second may be one set. `done` is called with the number of images queried.
    """
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    same = first is second
    for swapped, (one, other) in enumerate(((first, second), (second, first))):
        if same and swapped:
            break
        starts = range(0, len(one.spectrum_NFF), _ROWS)
        with ThreadPoolExecutor(workers) as pool:
            for found in pool.map(partial(_nearest, one, other), starts):
                for row, index, cosine, mirrored in found:
                    pair = (index, row) if swapped else (row, index)
                    pair = (min(pair), max(pair)) if same else pair
                    if pair not in best or cosine > best[pair][0]:
                        best[pair] = cosine, mirrored
                done(min(_ROWS, len(one.spectrum_NFF)))
    return {pair: mirrored for pair, (_, mirrored) in best.items()}


def near_duplicates(
    first: SpeckledSet, second: SpeckledSet, pairs: Likely, workers: int, done: Progress
) -> Iterator[NearDuplicate]:
    """Yield the likely pairs that are copies, or may be."""
    listed = sorted(pairs.items())

    def compare(pair: tuple[tuple[int, int], bool]) -> NearDuplicate | None:
        (i, j), mirrored = pair
        score = _best_correlation(first.speckle_NHW[i], second.speckle_NHW[j], mirrored)
        done(1)
        if score < UNCLEAR:
            return None
        return NearDuplicate(
            first=i, second=j, certain=score >= NEAR,
            reason="" if score >= NEAR else "speckle agrees only in part",
            score=score, angle=0.0, mirrored=mirrored, scale=1.0,
        )  # fmt: skip

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(listed), _CHUNK):
            found = pool.map(compare, listed[start : start + _CHUNK])
            yield from (match for match in found if match is not None)


def _nearest(
    one: SpeckledSet, other: SpeckledSet, start: int
) -> list[tuple[int, int, float, bool]]:
    """Return (row, index, cosine, mirrored) of the images nearest to some rows from `start` on."""
    rows_BFF = one.spectrum_NFF[start : start + _ROWS]
    found = []
    for mirrored in (False, True):
        # left to right: frequencies across the layers change their sign
        row_BD = _flat(rows_BFF[:, ::-1] if mirrored else rows_BFF)
        cosine_BN = np.concatenate(
            [
                row_BD @ _flat(other.spectrum_NFF[at : at + _ROWS]).T
                for at in range(0, len(other.spectrum_NFF), _ROWS)
            ],
            axis=1,
        )
        for number, cosine_N in enumerate(cosine_BN):
            if one is other:  # nothing is its own copy
                cosine_N[start + number] = -1
            for index in np.argsort(-cosine_N)[:NEAREST]:
                if cosine_N[index] > 0:
                    found.append((start + number, int(index), float(cosine_N[index]), mirrored))
    return found


def _flat(spectrum_BFF: np.ndarray) -> np.ndarray:
    return spectrum_BFF.astype(np.float32).reshape(len(spectrum_BFF), -1)


def _best_correlation(one_HW: np.ndarray, other_HW: np.ndarray, mirrored: bool) -> float:
    """Return the correlation of two speckles at the shift where it is largest."""
    one, other = one_HW.astype(np.float32), other_HW.astype(np.float32)
    if mirrored:
        other = other[:, ::-1]
    product_FF = np.fft.rfft2(one) * np.conj(np.fft.rfft2(other))
    size = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float(np.fft.irfft2(product_FF, s=one.shape).max() / size) if size else 0.0

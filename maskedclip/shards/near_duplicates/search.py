"""Copies of one exposure between two sets of stored photographs, or within one.

Three steps, each for fewer pairs than the one before: nearest descriptors, alignment of the coarse
structure, and agreement of the vessels. What is kept of a photograph lies in files, not in memory.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from maskedclip.shards.near_duplicates.descriptors import (
    LENGTH,
    SIDE,
    VARIANTS,
    decode_square,
    describe,
    dihedral,
)
from maskedclip.shards.near_duplicates.registration import (
    COARSE,
    FINE,
    Agreement,
    FineView,
    agreement,
    coarse,
    coarse_alignment,
    fine,
)

_QUERIES, _GALLERY = 48, 4096  # rows of a block: 20 million products, 80 MB
FLOOR = 0.3  # below this cosine no copy was seen


class Candidate(NamedTuple):
    """A photograph `second`, and that of which a variant looks like it."""

    first: int
    second: int
    cosine: float


def candidates(
    first_NVD: np.ndarray,
    second_NVD: np.ndarray,
    nearest: int,
    *,
    same: bool,
    progress: Callable[[int], object],
) -> Iterator[Candidate]:
    """Yield, for each photograph of either set, the `nearest` ones of the other.

    Args:
        first_NVD, second_NVD: of `describe`, float16; all variants of the first are compared with
            the second ones as they are.
        same: whether both are one set, in which nothing is its own copy.
        progress: called with the number of photographs that are done.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    order_8D = torch.from_numpy(dihedral())
    backwards = _NearestSoFar(len(second_NVD), nearest, device)
    for start in range(0, len(first_NVD), _QUERIES):
        query_BWD = _variants(first_NVD[start : start + _QUERIES], order_8D).to(device)
        best = _NearestSoFar(len(query_BWD), nearest, device)
        for begin in range(0, len(second_NVD), _GALLERY):
            rows_GD = second_NVD[begin : begin + _GALLERY, 0].astype(np.float32)
            gallery_GD = torch.from_numpy(rows_GD).to(device)
            cosine_BG = (query_BWD.flatten(0, 1) @ gallery_GD.T).unflatten(0, query_BWD.shape[:2])
            cosine_BG = cosine_BG.amax(dim=1)
            if same:
                own_B = torch.arange(start, start + len(query_BWD), device=device) - begin
                here_B = (own_B >= 0) & (own_B < len(gallery_GD))
                cosine_BG[here_B, own_B[here_B]] = -1
            best.add(cosine_BG, begin)
            backwards.add(cosine_BG.T, start, slice(begin, begin + len(gallery_GD)))
        yield from _pairs(best, range(start, start + len(query_BWD)), False)
        progress(len(query_BWD))
    yield from _pairs(backwards, range(len(second_NVD)), True)


def variant_of(first_VD: np.ndarray, second_VD: np.ndarray) -> int:
    """Return the variant of the first that looks most like the second as it is."""
    query_WD = _variants(first_VD[None], torch.from_numpy(dihedral()))[0].numpy()
    return int((query_WD @ second_VD[0].astype(np.float32)).argmax())


def _variants(descriptor_BVD: np.ndarray, order_8D: Tensor) -> Tensor:
    """Return query_BWD: each descriptor in the 8 orders of `dihedral`."""
    return torch.from_numpy(descriptor_BVD.astype(np.float32))[:, :, order_8D].flatten(1, 2)


def _pairs(best: "_NearestSoFar", places: range, backwards: bool) -> Iterator[Candidate]:
    for place, cosine_K, found_K in zip(places, *best.found(), strict=True):
        for cosine, found in zip(cosine_K, found_K, strict=True):
            if cosine >= FLOOR:
                pair = (int(found), place) if backwards else (place, int(found))
                yield Candidate(*pair, float(cosine))


class _NearestSoFar:
    """The largest cosines of each row that were seen so far."""

    def __init__(self, rows: int, nearest: int, device: torch.device) -> None:
        self._cosine_BK = torch.full((rows, nearest), -1.0, device=device)
        self._place_BK = torch.zeros((rows, nearest), dtype=torch.int64, device=device)

    def add(self, cosine_BG: Tensor, begin: int, rows: slice = slice(None)) -> None:
        """Look at cosines of `rows` with what begins at the place `begin`."""
        nearest = self._cosine_BK.shape[1]
        new_BK, place_BK = cosine_BG.topk(min(nearest, cosine_BG.shape[1]), dim=1)
        both_BK = torch.cat([self._cosine_BK[rows], new_BK], dim=1)
        places_BK = torch.cat([self._place_BK[rows], place_BK + begin], dim=1)
        self._cosine_BK[rows], chosen_BK = both_BK.topk(nearest, dim=1)
        self._place_BK[rows] = places_BK.gather(1, chosen_BK)

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        return self._cosine_BK.cpu().numpy(), self._place_BK.cpu().numpy()


NEAREST = 2  # photographs of a set that each one is compared with
# How these limits were found, and what each costs, is in docs/leakage.md.
NEAR_SCORE, NEAR_CORRELATION, NEAR_TONE = 0.25, 0.6, 0.88
CLEAR_SCORE = 0.6  # from here on the vessels speak for themselves
UNCLEAR_SCORE, UNCLEAR_CORRELATION = 0.15, 0.5
LEAST_DETAIL = 0.0025  # of the brightness: less contrast is noise
LEAST_OVERLAP, LARGEST_STRETCH = 0.5, 1.4
_KEPT = 600  # photographs in memory, 370 kB each
_CHUNK = 4096

Read = Callable[[int], bytes]
Progress = Callable[[int], object]
# Two places to whether it is a variant of the second that looks like the first.
Likely = dict[tuple[int, int], bool]


class DescribedSet(NamedTuple):
    """A set of photographs, and what is compared of them."""

    read: Read  # the JPEG bytes of a photograph
    descriptor_NVD: np.ndarray  # float16
    coarse_NHW: np.ndarray  # int8


class NearDuplicate(NamedTuple):
    """Two photographs, places in their sets, that seem to be one exposure."""

    first: int
    second: int
    certain: bool
    reason: str  # why it is not certain
    score: float
    angle: float  # degrees, counter-clockwise, by which the second is turned
    mirrored: bool  # left to right, before it was turned
    scale: float  # of the second


def describe_all(
    read: Read, count: int, folder: Path, workers: int, done: Progress
) -> DescribedSet:
    """Return the descriptors of `count` photographs, kept in files of `folder`."""
    shape = (count, VARIANTS, LENGTH)
    descriptor_NVD = np.memmap(folder / "descriptors", np.float16, "w+", shape=shape)
    coarse_NHW = np.memmap(folder / "coarse", np.int8, "w+", shape=(count, COARSE, COARSE))

    def one(place: int) -> None:
        # twice the size, where the stored one has it: averaged down it has no JPEG blocks left
        image_HWC = decode_square(read(place), 2 * SIDE)
        small_HWC = cv2.resize(image_HWC, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        descriptor_NVD[place] = describe(small_HWC)
        coarse_NHW[place] = coarse(image_HWC)
        done(1)

    for start in range(0, count, _CHUNK):
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, range(start, min(start + _CHUNK, count))))
    return DescribedSet(read, descriptor_NVD, coarse_NHW)


def likely(first: DescribedSet, second: DescribedSet, done: Progress) -> Likely:
    """Return the pairs worth a comparison; first and second may be one set.

    `done` is called with the number of photographs looked up: of the first set, and of the second.
    """
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    same = first is second
    ways = [(first, second, False)] if same else [(first, second, False), (second, first, True)]
    for one, other, turned in ways:
        for candidate in candidates(
            one.descriptor_NVD, other.descriptor_NVD, NEAREST, same=same, progress=done
        ):
            pair = candidate.first, candidate.second
            swapped = turned or (same and pair[0] > pair[1])
            if swapped:
                pair = pair[1], pair[0]
            if pair not in best or candidate.cosine > best[pair][0]:
                best[pair] = candidate.cosine, swapped
    return {pair: swapped for pair, (_, swapped) in best.items()}


def near_copies(
    first: DescribedSet, second: DescribedSet, pairs: Likely, workers: int, done: Progress
) -> Iterator[NearDuplicate]:
    """Yield those of the likely pairs that are copies, or may be."""
    listed = sorted(pairs.items())

    @lru_cache(_KEPT)
    def seen(other: bool, place: int) -> FineView:
        return fine(decode_square((second if other else first).read(place), FINE))

    def compare(pair: tuple[tuple[int, int], bool]) -> NearDuplicate | None:
        places, turned = pair
        done(1)
        one, other = (first, places[0]), (second, places[1])
        if turned:
            one, other = other, one
        (of, place), (by, beside) = one, other
        variant = variant_of(of.descriptor_NVD[place], by.descriptor_NVD[beside])
        coarse_23 = coarse_alignment(of.coarse_NHW[place], by.coarse_NHW[beside], variant)
        if coarse_23 is None:
            return None
        views = seen(False, places[0]), seen(first is not second, places[1])
        found = agreement(*(views[::-1] if turned else views), coarse_23)
        return None if found is None else _judged(*places, found, turned)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(listed), _CHUNK):
            for copy in pool.map(compare, listed[start : start + _CHUNK]):
                if copy is not None:
                    yield copy


def _is_elsewhere(found: Agreement) -> bool:
    fields = found.fields
    moved = fields.shift > 0.38 and fields.loss > 0.025
    grown = fields.growth > 0.6 and fields.loss > 0.02 and found.score < CLEAR_SCORE
    return moved or grown


def _judged(first: int, second: int, found: Agreement, turned: bool) -> NearDuplicate | None:
    if found.score < UNCLEAR_SCORE or found.correlation < UNCLEAR_CORRELATION:
        return None
    matrix_33 = np.vstack([found.matrix_23, [0, 0, 1]])
    linear_22 = (np.linalg.inv(matrix_33) if turned else matrix_33)[:2, :2]
    stretch = np.linalg.svd(linear_22)[1]
    reason = ""
    if found.detail < LEAST_DETAIL:
        reason = "too little detail"
    elif found.overlap < LEAST_OVERLAP or stretch[0] > LARGEST_STRETCH * stretch[1]:
        reason = "they fit only when distorted"
    elif found.score < NEAR_SCORE or found.correlation < NEAR_CORRELATION:
        reason = "the vessels agree in part"
    elif _is_elsewhere(found):
        reason = "another exposure of the eye"
    elif found.tone < NEAR_TONE and found.score < CLEAR_SCORE:
        reason = "lit in another way"
    mirrored = bool(np.linalg.det(linear_22) < 0)
    cosine = -linear_22[0, 0] if mirrored else linear_22[0, 0]
    return NearDuplicate(
        first=first,
        second=second,
        certain=not reason,
        reason=reason,
        score=found.score,
        angle=math.degrees(math.atan2(linear_22[1, 0], cosine)),
        mirrored=mirrored,
        scale=1 / math.sqrt(abs(float(np.linalg.det(linear_22)))),
    )

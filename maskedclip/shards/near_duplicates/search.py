"""Find near-duplicates (copies of one exposure) between two sets of photographs, or within one.

Three steps, each for fewer pairs than the one before: nearest descriptors, alignment of the coarse
structure, and agreement of the vessels. Descriptors lie in memory-mapped files.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from maskedclip.engine.visible_gpus import inference_device
from maskedclip.shards.near_duplicates.coarse_alignment import COARSE, aligned, similarities
from maskedclip.shards.near_duplicates.descriptors import (
    LENGTH,
    SIDE,
    VARIANTS,
    decode_square,
    describe,
    dihedral,
    inverse_orders,
)
from maskedclip.shards.near_duplicates.registration import (
    FINE,
    Agreement,
    FineView,
    agreement,
    coarse,
    coarse_alignment,
    enlarged,
    fine,
    vessels,
)

_QUERIES, _GALLERY = 128, 2048  # rows of a block: its products stay in a core's cache
FLOOR = 0.3  # no duplicate was observed below this cosine


class Candidate(NamedTuple):
    """A photograph `second`, and one of which a variant is similar to it."""

    first: int
    second: int
    cosine: float


def candidates(
    first_NVD: np.ndarray,
    second_NVD: np.ndarray,
    nearest: int,
    *,
    same: bool,
    workers: int,
    progress: Callable[[int], object],
) -> Iterator[Candidate]:
    """Yield, for every photograph of either set, the `nearest` ones of the other.

    Args:
        first_NVD, second_NVD: of `describe`, float16; all variants of the first are compared with
            the second ones as they are.
        same: whether both are one set, in which nothing is its own duplicate.
        workers: threads; those of torch itself would wait for each other at every small product.
        progress: called with the number of photographs processed.
    """
    device = inference_device()

    def compare(start: int) -> tuple[_NearestSoFar, _NearestSoFar]:
        query_WPBD = _variants(first_NVD[start : start + _QUERIES]).to(device)
        best = _NearestSoFar(query_WPBD.shape[2], nearest, device)
        back = _NearestSoFar(len(second_NVD), nearest, device)
        for begin in range(0, len(second_NVD), _GALLERY):
            rows_GD = torch.from_numpy(second_NVD[begin : begin + _GALLERY, 0].astype(np.float32))
            cosine_BG = _largest_cosines(query_WPBD, _halves(rows_GD).mT.contiguous().to(device))
            if same:
                own_B = torch.arange(start, start + len(cosine_BG), device=device) - begin
                here_B = (own_B >= 0) & (own_B < len(rows_GD))
                cosine_BG[here_B, own_B[here_B]] = -1
            best.add(cosine_BG, begin)
            back.add(cosine_BG.T, start, slice(begin, begin + len(rows_GD)))
        return best, back

    backwards = _NearestSoFar(len(second_NVD), nearest, device)
    starts = range(0, len(first_NVD), _QUERIES)
    with ThreadPoolExecutor(workers) as pool:
        for start, (best, back) in zip(starts, pool.map(compare, starts), strict=True):
            backwards.merge(back.cosine_BK, back.index_BK)
            yield from _pairs(best, range(start, start + len(best.cosine_BK)), False)
            progress(len(best.cosine_BK))
    yield from _pairs(backwards, range(len(second_NVD)), True)


def variant_of(first_VD: np.ndarray, second_VD: np.ndarray) -> int:
    """Return the variant of the first that is most similar to the second as it is."""
    second_8D = second_VD[0].astype(np.float32)[inverse_orders()]
    return int((first_VD.astype(np.float32) @ second_8D.T).argmax())


def _halves(descriptor_D: Tensor) -> Tensor:
    """Return half_PD: what a half turn keeps, and what it negates.

    The cosine with a photograph is the sum of both halves' products; once one of the two is turned
    by a half, it is their difference. So the larger one is the first plus the size of the second.
    """
    turned_D = torch.from_numpy(dihedral()[2])
    cell_D = torch.arange(LENGTH)
    cell_D = cell_D[cell_D < turned_D]  # one of the two that a half turn exchanges
    one_D, other_D = descriptor_D[..., cell_D], descriptor_D[..., turned_D[cell_D]]
    return torch.stack([one_D + other_D, one_D - other_D], dim=-3) / math.sqrt(2)


def _variants(descriptor_BVD: np.ndarray) -> Tensor:
    """Return query_WPBD: the halves of every variant, those turned by a half left out."""
    order_4D = torch.from_numpy(dihedral()[[0, 1, 4, 5]])
    query_BVWD = torch.from_numpy(descriptor_BVD.astype(np.float32))[:, :, order_4D]
    return _halves(query_BVWD.flatten(1, 2).transpose(0, 1))


def _largest_cosines(query_WPBD: Tensor, gallery_PDG: Tensor) -> Tensor:
    """Return cosine_BG: that of the variant of each query that is nearest."""
    kept_DG, negated_DG = gallery_PDG
    cosine_BG = query_WPBD.new_full((query_WPBD.shape[2], kept_DG.shape[1]), -1.0)
    for kept_BD, negated_BD in query_WPBD:
        turned_BG = (negated_BD @ negated_DG).abs_().addmm_(kept_BD, kept_DG)
        torch.maximum(cosine_BG, turned_BG, out=cosine_BG)
    return cosine_BG


def _pairs(best: "_NearestSoFar", rows: range, backwards: bool) -> Iterator[Candidate]:
    cosine_BK, index_BK = best.cosine_BK.cpu().numpy(), best.index_BK.cpu().numpy()
    for row, cosine_K, index_K in zip(rows, cosine_BK, index_BK, strict=True):
        for cosine, index in zip(cosine_K, index_K, strict=True):
            if cosine >= FLOOR:
                pair = (int(index), row) if backwards else (row, int(index))
                yield Candidate(*pair, float(cosine))


class _NearestSoFar:
    """The largest cosines of every row so far, and the indices of their columns."""

    def __init__(self, rows: int, nearest: int, device: torch.device) -> None:
        self.cosine_BK = torch.full((rows, nearest), -1.0, device=device)
        self.index_BK = torch.zeros((rows, nearest), dtype=torch.int64, device=device)

    def add(self, cosine_BG: Tensor, begin: int, rows: slice = slice(None)) -> None:
        """Add the cosines of `rows` with the columns from the index `begin` on."""
        nearest = min(self.cosine_BK.shape[1], cosine_BG.shape[1])
        new_BK, column_BK = cosine_BG.topk(nearest, dim=1)
        self.merge(new_BK, column_BK + begin, rows)

    def merge(self, new_BK: Tensor, column_BK: Tensor, rows: slice = slice(None)) -> None:
        """Add cosines of `rows` with the columns of these indices."""
        both_BK = torch.cat([self.cosine_BK[rows], new_BK], dim=1)
        index_BK = torch.cat([self.index_BK[rows], column_BK], dim=1)
        self.cosine_BK[rows], chosen_BK = both_BK.topk(self.cosine_BK.shape[1], dim=1)
        self.index_BK[rows] = index_BK.gather(1, chosen_BK)


NEAREST = 2  # photographs of the other set that every one is compared with
# How these limits were found, and what each costs, is in docs/leakage.md.
NEAR_SCORE, NEAR_CORRELATION, NEAR_TONE = 0.25, 0.6, 0.88
CLEAR_SCORE = 0.6  # from here on the vessels alone are sufficient
UNCLEAR_SCORE, UNCLEAR_CORRELATION = 0.15, 0.5
LEAST_DETAIL = 0.0025  # of the brightness: less contrast is noise
LEAST_OVERLAP, LARGEST_STRETCH = 0.5, 1.4
# Mean correlations of blocks, below which a pair is not looked at further (docs/leakage.md).
_PROMISING_COARSE, _PROMISING_VESSELS = 0.27, 0.09
_KEPT = 600  # photographs in memory, 330 to 515 kB each
_CHUNK, _TOGETHER = 4096, 32

Read = Callable[[int], bytes]
Progress = Callable[[int], object]
# A pair of indices -> whether it is a variant of the second that is similar to the first.
Likely = dict[tuple[int, int], bool]


class DescribedSet(NamedTuple):
    """A set of photographs, and their descriptors."""

    read: Read  # the JPEG bytes of a photograph
    descriptor_NVD: np.ndarray  # float16
    coarse_NHW: np.ndarray  # int8
    vessel_NHW: np.ndarray  # int8


class NearDuplicate(NamedTuple):
    """Two photographs, by index in their sets, that are or may be one exposure."""

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
    vessel_NHW = np.memmap(folder / "vessels", np.int8, "w+", shape=(count, SIDE, SIDE))

    def describe_one(index: int) -> None:
        # twice the size, where the stored one has it: averaged down it has no JPEG blocks left
        image_HWC = decode_square(read(index), 2 * SIDE)
        small_HWC = cv2.resize(image_HWC, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        descriptor_NVD[index] = describe(small_HWC)
        coarse_NHW[index] = coarse(image_HWC)
        vessel_NHW[index] = vessels(small_HWC)
        done(1)

    for start in range(0, count, _CHUNK):
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(describe_one, range(start, min(start + _CHUNK, count))))
    # as plain arrays, still on their files: rows of a memmap take long to make
    return DescribedSet(read, *map(np.asarray, (descriptor_NVD, coarse_NHW, vessel_NHW)))


def likely_pairs(first: DescribedSet, second: DescribedSet, workers: int, done: Progress) -> Likely:
    """Return the pairs worth a comparison; first and second may be one set.

    `done` is called with the number of photographs queried: of the first set, and of the second.
    """
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    same = first is second
    queries = [(first, second, False)] if same else [(first, second, False), (second, first, True)]
    for one, other, reverse in queries:
        for candidate in candidates(
            one.descriptor_NVD,
            other.descriptor_NVD,
            NEAREST,
            same=same,
            workers=workers,
            progress=done,
        ):
            pair = candidate.first, candidate.second
            swapped = reverse or (same and pair[0] > pair[1])
            if swapped:
                pair = pair[1], pair[0]
            # quarter turns give both ways the same cosine, but for rounding: the first one stays
            if pair not in best or candidate.cosine > best[pair][0] + 1e-5:
                best[pair] = candidate.cosine, swapped
    return {pair: swapped for pair, (_, swapped) in best.items()}


def near_duplicates(
    first: DescribedSet, second: DescribedSet, pairs: Likely, workers: int, done: Progress
) -> Iterator[NearDuplicate]:
    """Yield the likely pairs that are near-duplicates, or may be."""
    listed = sorted(pairs.items())

    @lru_cache(_KEPT)
    def view(of_second: bool, index: int) -> FineView:
        return fine(decode_square((second if of_second else first).read(index), FINE))

    def compare(start: int) -> list[NearDuplicate]:
        chosen = listed[start : start + _TOGETHER]
        sides = [_sides(first, second, i, j, swapped) for (i, j), swapped in chosen]
        variants = [
            variant_of(one.descriptor_NVD[k], other.descriptor_NVD[m])
            for (one, k), (other, m) in sides
        ]
        found = []
        for number in _promising(sides, variants):
            (one, k), (other, m) = sides[number]
            coarse_23 = coarse_alignment(one.coarse_NHW[k], other.coarse_NHW[m], variants[number])
            if coarse_23 is None:
                continue
            (i, j), swapped = chosen[number]
            views = view(False, i), view(first is not second, j)
            result = agreement(*(views[::-1] if swapped else views), coarse_23)
            match = None if result is None else _verdict(i, j, result, swapped)
            found += [] if match is None else [match]
        done(len(chosen))
        return found

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(listed), _CHUNK):
            for matches in pool.map(
                compare, range(start, min(start + _CHUNK, len(listed)), _TOGETHER)
            ):
                yield from matches


_Sides = tuple[tuple[DescribedSet, int], tuple[DescribedSet, int]]


def _sides(first: DescribedSet, second: DescribedSet, i: int, j: int, swapped: bool) -> _Sides:
    return ((second, j), (first, i)) if swapped else ((first, i), (second, j))


def _promising(pairs: Sequence[_Sides], variants: Sequence[int]) -> list[int]:
    """Return the numbers of the pairs that small images, aligned in a hurry, do not tell apart."""
    one_BHW, other_BHW = _both(pairs, "coarse_NHW")
    matrix_B23 = aligned(one_BHW, other_BHW, variants)
    similar_B = similarities(one_BHW, other_BHW, matrix_B23)
    kept = [int(b) for b in np.flatnonzero(similar_B >= _PROMISING_COARSE)]
    if not kept:
        return []
    one_BHW, other_BHW = _both([pairs[b] for b in kept], "vessel_NHW")
    large_B23 = np.stack([enlarged(matrix_B23[b], SIDE / COARSE) for b in kept])
    similar_K = similarities(one_BHW, other_BHW, large_B23)
    return [b for b, similar in zip(kept, similar_K, strict=True) if similar >= _PROMISING_VESSELS]


def _both(sides: Sequence[_Sides], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what two sets hold of the first and of the second photograph of every pair."""
    one, other = (
        np.stack([getattr(dataset, name)[at] for dataset, at in side])
        for side in zip(*sides, strict=True)
    )
    return one, other


def _is_other_exposure(result: Agreement) -> bool:
    fields = result.fields
    moved = fields.shift > 0.38 and fields.loss > 0.025
    grown = fields.growth > 0.6 and fields.loss > 0.02 and result.score < CLEAR_SCORE
    return moved or grown


def _verdict(first: int, second: int, result: Agreement, swapped: bool) -> NearDuplicate | None:
    if result.score < UNCLEAR_SCORE or result.correlation < UNCLEAR_CORRELATION:
        return None
    matrix_33 = np.vstack([result.matrix_23, [0, 0, 1]])
    linear_22 = (np.linalg.inv(matrix_33) if swapped else matrix_33)[:2, :2]
    stretch = np.linalg.svd(linear_22)[1]
    reason = ""
    if result.detail < LEAST_DETAIL:
        reason = "too little detail"
    elif result.overlap < LEAST_OVERLAP or stretch[0] > LARGEST_STRETCH * stretch[1]:
        reason = "match only after distortion"
    elif result.score < NEAR_SCORE or result.correlation < NEAR_CORRELATION:
        reason = "vessels agree only in part"
    elif _is_other_exposure(result):
        reason = "another exposure of the same eye"
    elif result.tone < NEAR_TONE and result.score < CLEAR_SCORE:
        reason = "different illumination"
    mirrored = bool(np.linalg.det(linear_22) < 0)
    cosine = -linear_22[0, 0] if mirrored else linear_22[0, 0]
    return NearDuplicate(
        first=first,
        second=second,
        certain=not reason,
        reason=reason,
        score=result.score,
        angle=math.degrees(math.atan2(linear_22[1, 0], cosine)),
        mirrored=mirrored,
        scale=1 / math.sqrt(abs(float(np.linalg.det(linear_22)))),
    )

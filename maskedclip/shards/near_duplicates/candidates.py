"""Which photographs may be copies of which: the nearest descriptors, in constant memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskedclip.shards.near_duplicates.descriptors import dihedral

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
    backwards = _Best(len(second_NVD), nearest, device)
    for start in range(0, len(first_NVD), _QUERIES):
        query_BWD = _variants(first_NVD[start : start + _QUERIES], order_8D).to(device)
        best = _Best(len(query_BWD), nearest, device)
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


def _pairs(best: "_Best", places: range, backwards: bool) -> Iterator[Candidate]:
    for place, cosine_K, found_K in zip(places, *best.found(), strict=True):
        for cosine, found in zip(cosine_K, found_K, strict=True):
            if cosine >= FLOOR:
                pair = (int(found), place) if backwards else (place, int(found))
                yield Candidate(*pair, float(cosine))


class _Best:
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

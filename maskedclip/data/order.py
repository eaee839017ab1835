"""Which sample stands where: pure functions of (seed, epoch, position), with nothing to remember.

A seeded bijection on 0..n-1 replaces a shuffle buffer, so the position of a stream is one
integer and seeking costs nothing.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_ROUNDS = 10
BLOCK = 64  # neighbours of a window that are read as one: some 4 MB at 512 pixels
CYCLE = 1000  # slots in which the shares of a mixture come out exactly


def number(*parts: object, bits: int = 64) -> int:
    """Return a fixed pseudo-random integer below 2^bits for `parts`, equal on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=bits // 8).digest(), "little")


def uniform(key_B: np.ndarray, count: int) -> np.ndarray:
    """Return value_BF: for each 64-bit key `count` numbers in [0, 1), those of splitmix64.

    One call for all rows of a batch: a generator a row takes four times as long.
    """
    step_F = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits_BF = _mix(key_B[:, None] + step_F, np.uint64(0))
    return np.asarray((bits_BF >> np.uint64(10)) * 2.0**-53)


def permuted(position_B: np.ndarray, size: int, key: int) -> np.ndarray:
    """Return index_B: the images of `position_B` under the bijection of 0..size-1 that `key` picks.

    A Feistel network on a rectangle of nearly equal sides that just holds `size` cells (Black and
    Rogaway, 2002); the few values that fall beyond the last cell walk on until they are inside.
    """
    assert (position_B < size).all()
    turns = np.frombuffer(hashlib.shake_128(str(key).encode()).digest(8 * _ROUNDS), "<u8")
    index_B = _feistel(position_B.astype(np.uint64), size, turns)
    while (outside_B := index_B >= size).any():
        index_B[outside_B] = _feistel(index_B[outside_B], size, turns)
    return index_B.astype(np.int64)


def _feistel(value_B: np.ndarray, size: int, turns: np.ndarray) -> np.ndarray:
    wide = math.isqrt(size - 1) + 1
    sides = np.uint64(-(-size // wide)), np.uint64(wide)
    row, column = np.divmod(value_B, sides[1])
    for turn, key in enumerate(turns):  # each side is turned by a hash of the other
        if turn % 2:
            column = (column + _mix(row, key)) % sides[1]
        else:
            row = (row + _mix(column, key)) % sides[0]
    return row * sides[1] + column


def _mix(value_B: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return a 63-bit hash of each value (the finaliser of splitmix64): a sum does not overflow."""
    x = value_B ^ key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)


def ordered(first: int, rows: int, size: int, window: int, key: int) -> np.ndarray:
    """Return index_B: which of `size` samples stand at the positions from `first` on of an epoch.

    window 0 is one bijection of all. Else the samples are dealt out in blocks of neighbours, blocks
    in a new order, and each `window` samples (blocks from anywhere) are mixed on their own.
    """
    if not window:
        return permuted(np.arange(first, first + rows), size, key)
    chunks, end = [np.zeros(0, np.int64)], first + rows
    while first < end:
        start = first // window * window
        length = min(window, size - start)
        stop = min(start + length, end)
        inside_B = np.arange(first - start, stop - start)
        chunks.append(start + permuted(inside_B, length, number(key, "window", start)))
        first = stop
    return _in_blocks(np.concatenate(chunks), size, window, key)


def pieces(position: int, size: int, window: int, key: int) -> list[tuple[int, int]]:
    """Return the runs of samples start..stop-1 in the window of a position."""
    start = position // window * window
    position_B = np.arange(start, min(start + window, size))
    index_B = np.sort(_in_blocks(position_B, size, window, key))
    breaks = np.flatnonzero(np.diff(index_B) != 1)
    firsts, lasts = index_B[[0, *(breaks + 1)]], index_B[[*breaks, -1]]
    return [(int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True)]


def _in_blocks(position_B: np.ndarray, size: int, window: int, key: int) -> np.ndarray:
    """Return index_B of samples dealt out in blocks; the shorter one may come at any turn."""
    block = min(window, BLOCK)
    whole, rest = divmod(size, block)
    if not whole:
        return position_B
    short = number(key, "short") % (whole + 1) * block
    turn_B, inside_B = np.divmod(position_B - np.where(position_B >= short + rest, rest, 0), block)
    within_B = (position_B >= short) & (position_B < short + rest)
    turn_B[within_B] = 0
    index_B = permuted(turn_B, whole, number(key, "blocks")) * block + inside_B
    return np.where(within_B, whole * block + position_B - short, index_B)


def shares_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many slots of a cycle each weight gets: the largest remainders are rounded up.

    A cycle has CYCLE slots, or a little fewer where whole numbers then come out exactly.
    """
    total = sum(weights)
    whole = all(weight == int(weight) for weight in weights) and total <= CYCLE
    cycle = int(CYCLE // total * total) if whole else CYCLE
    exact = [weight * cycle / total for weight in weights]
    shares = [int(share) for share in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_rest[: cycle - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


class Turns(NamedTuple):
    """Whose turn it is in a run of slots, and how many slots each had before it."""

    which_B: np.ndarray
    before: list[int]


def turns_at(first: int, rows: int, shares: tuple[int, ...], key: int) -> Turns:
    """Return whose slots `first`.. of an endless mixture are; each cycle has its own order."""
    cycle, start = divmod(first, sum(shares))
    which_B = _cycle(cycle, shares, key)
    earlier = np.bincount(which_B[:start], minlength=len(shares)).tolist()
    before = [cycle * share + n for share, n in zip(shares, earlier, strict=True)]
    chunks = [which_B[start : start + rows]]
    while (missing := rows - sum(map(len, chunks))) > 0:
        cycle += 1
        chunks.append(_cycle(cycle, shares, key)[:missing])
    return Turns(np.concatenate(chunks), before)


@lru_cache(maxsize=16)
def _cycle(cycle: int, shares: tuple[int, ...], key: int) -> np.ndarray:
    slot_B = permuted(np.arange(sum(shares)), sum(shares), number(key, "cycle", cycle))
    return np.searchsorted(np.cumsum(shares), slot_B, side="right")

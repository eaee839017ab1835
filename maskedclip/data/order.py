"""Which sample stands where: pure functions of (seed, epoch, position), with nothing to remember.

A seeded bijection on 0..n-1 takes the place of a shuffle buffer, so the place of a stream is one
integer and seeking costs nothing.
"""

import hashlib

import numpy as np

_ROUNDS = 6


def number(*parts: object, bits: int = 64) -> int:
    """Return a fixed pseudo-random integer below 2^bits for `parts`, equal on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=bits // 8).digest(), "little")


def generator(*parts: object) -> np.random.Generator:
    """Return a generator that depends on `parts` alone."""
    return np.random.Generator(np.random.Philox(key=number(*parts, bits=128)))


def permuted(position_B: np.ndarray, size: int, key: int) -> np.ndarray:
    """Return index_B: the images of `position_B` under the bijection of 0..size-1 that `key` picks.

    A balanced Feistel network on the next even number of bits; places that fall outside 0..size-1
    walk on until they are inside (Black and Rogaway, 2002), fewer than 4 times on average.
    """
    assert (position_B < size).all()
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    index_B = _feistel(position_B.astype(np.uint64), half, key)
    while (outside_B := index_B >= size).any():
        index_B[outside_B] = _feistel(index_B[outside_B], half, key)
    return index_B.astype(np.int64)


def _feistel(value_B: np.ndarray, half: int, key: int) -> np.ndarray:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value_B >> bits, value_B & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_mix(right, number(key, turn)) & mask)
    return (left << bits) | right


def _mix(value_B: np.ndarray, key: int) -> np.ndarray:
    """Return a 64-bit hash of each value (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        x = value_B ^ np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

"""Random damage to a file's bytes, as disks and copies do it."""

import random
from collections.abc import Callable, Mapping

from tests.data.test_damaged_shards import (
    change_byte,
    double_block,
    drop_block,
    flip_bit,
    of_blocks,
    swap_blocks,
    truncate,
    zero_block,
)

Damage = Callable[[bytes, random.Random], bytes]


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((2, 2, 3, 8))):  # two may hide from a parity
        content = flip_bit(content, rng)
    return content


def append(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice((rng.randbytes(1), bytes(512), rng.randbytes(700), content[-64:]))


def other_page(content: bytes, rng: random.Random) -> bytes:
    """Put random bytes where a page was, as a block that belongs to another file."""
    place = 512 * rng.randrange(len(content) // 512 + 1)
    return (
        content[:place] + rng.randbytes(len(content[place : place + 512])) + content[place + 512 :]
    )


DAMAGES: Mapping[str, Damage] = {
    "bit": flip_bit,
    "bits": flip_bits,
    "byte": change_byte,
    "cut": truncate,
    "zeroed": of_blocks(zero_block),
    "dropped": of_blocks(drop_block),
    "doubled": of_blocks(double_block),
    "swapped": of_blocks(swap_blocks),
    "appended": append,
    "another's page": other_page,
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one of the damages, at random; of nothing, what can be appended."""
    kind = rng.choice(list(DAMAGES))
    return DAMAGES[kind](content, rng) if content else append(b"\0", rng)

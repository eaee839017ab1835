"""Members of a damaged shard of ours that lie elsewhere than the index says.

A block that was dropped or doubled shifts all that follows. A member is then found by its header,
and its crc32 in the index vouches that it is the right one.
"""

import logging
from collections.abc import Callable, Collection
from typing import NamedTuple

from isal.isal_zlib import crc32

from maskedclip.data.storage.retrying_files import Files
from maskedclip.data.storage.tar_headers import BLOCK, Header, read_header
from maskedclip.data.storage.tar_members import headers

logger = logging.getLogger(__name__)
_SAME = 8  # members of one name that are looked at


class Wanted(NamedTuple):
    """A member as the index has it."""

    name: str
    offset: int
    size: int
    crc32: int

    def is_whole(self, content: bytes) -> bool:
        """Return whether these are the bytes that were written."""
        return len(content) == self.size and crc32(content) == self.crc32


class Salvage:
    """Looks for members in the shards of a dataset, each read through once."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._places: dict[int, dict[str, list[int]]] = {}

    def forget(self, number: int) -> None:
        """Look anew in a shard that was replaced."""
        self._places.pop(number, None)

    def find(
        self, number: int, wanted: Wanted, names: Callable[[], Collection[str]]
    ) -> bytes | None:
        """Return the bytes of a member, None where they are nowhere; OSError passes.

        Args:
            names: gives the names of all members of the shard.
        """
        if not wanted.name or self._is_in_place(number, wanted):
            return None
        if number not in self._places:
            self._places[number] = self._search(number, names())
        for place in self._places[number].get(wanted.name, ()):
            content = self._files.read(number, wanted.size, place)
            if wanted.is_whole(content):
                return content
        return None

    def _is_in_place(self, number: int, wanted: Wanted) -> bool:
        """Return whether the header before a member is whole: then the damage is its own."""
        block = self._files.read(number, BLOCK, max(0, wanted.offset - BLOCK))
        header = read_header(block) if len(block) == BLOCK else ""
        return isinstance(header, Header) and header[0::2] == (wanted.name, wanted.size, "")

    def _search(self, number: int, names: Collection[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        files, known = self._files, set(names)
        for place, header in headers(lambda s, o: files.read(number, s, o), 0, files.size(number)):
            places = found.setdefault(header.name, []) if header.name in known else []
            if len(places) < _SAME:
                places.append(place + BLOCK)
        return found

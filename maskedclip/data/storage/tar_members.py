"""The members of a tar, one after the other, with checksums; nothing is extracted or believed.

Headers are read here and not by `tarfile`, which takes a header that it does not understand for the
end of the archive, and follows pax and GNU headers without limits.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from isal.isal_zlib import crc32

from maskedclip.data.storage.tar_headers import (
    BLOCK,
    EXTENSION_LIMIT,
    GNU_LINK,
    GNU_NAME,
    PAX,
    PAX_GLOBAL,
    Header,
    Told,
    name_problem,
    pax_records,
    read_header,
    shown,
    told_by,
)

IMAGE_LIMIT, TEXT_LIMIT = 1 << 26, 1 << 20  # bytes of a member; what is larger is not read
HEADER_LIMIT = 4_000_000  # of one tar, of all kinds
REFUSED_LIMIT = 100_000  # of one tar
_WINDOW = 1 << 21  # bytes read at once: they stay in the processor's cache for the checksum
_AHEAD = 2  # windows whose checksums may be outstanding
_END_LIMIT = 1 << 22  # bytes behind the end of an archive that are looked at

_ZEROS = bytes(BLOCK)

Read = Callable[[int, int], bytes]  # (size, offset) to bytes, fewer where the file ends


class Member(NamedTuple):
    """One member, or a place where the tar is broken: that has no name and a problem."""

    name: str
    offset: int  # of its content, or of the place
    size: int
    crc32: int  # 0 where there is a problem
    problem: str  # why it is refused, empty where it is a plain file of a sane name
    broken: bool = False  # members may be missing just here


def members(read: Read, length: int) -> Iterator[Member]:
    """Yield the plain files of a tar of `length` bytes, and all that is refused; OSError passes.

    The name of a folder ends with a slash. Behind a place that is no header, the next whole header
    goes on.
    """
    with ThreadPoolExecutor(2) as pool:  # checksums cost about as much as reading
        waiting: deque[Future[list[Member]]] = deque()
        batch: list[tuple[Member, memoryview]] = []
        waits = refused = 0
        for member, content in _walk(_Window(read, length)):
            batch.append((member, content))
            waits += BLOCK + len(content)
            refused += bool(member.problem)
            if refused == REFUSED_LIMIT:
                reason = f"has over {REFUSED_LIMIT:,} members that are refused"
                batch.append((_broken(member.offset, reason), memoryview(b"")))
                break
            if waits > _WINDOW:
                waiting.append(pool.submit(_with_checksums, batch))
                batch, waits = [], 0
            while len(waiting) > _AHEAD:
                yield from waiting.popleft().result()
        for future in waiting:
            yield from future.result()
        yield from _with_checksums(batch)


def _with_checksums(batch: list[tuple[Member, memoryview]]) -> list[Member]:
    return [
        member if member.problem else member._replace(crc32=crc32(content))
        for member, content in batch
    ]


class _Window:
    """The part of a file that was read last."""

    def __init__(self, read: Read, length: int) -> None:
        self._read, self.length = read, length
        self._content, self._start = b"", 0

    def at(self, offset: int, size: int) -> memoryview:
        """Return `size` bytes, fewer only where the file ends."""
        if not self._start <= offset <= offset + size <= self._start + len(self._content):
            wanted = max(0, min(max(size, _WINDOW), self.length - offset))
            self._content, self._start = self._read(wanted, offset), offset
        first = offset - self._start
        return memoryview(self._content)[first : first + size]

    def next_header(self, place: int, end: int) -> int:
        """Return the place of the next whole header, -1 where there is none."""
        return next((found for found, _ in headers(self._read, place, end)), -1)


def _walk(window: _Window) -> Iterator[tuple[Member, memoryview]]:
    place, told, nothing = 0, Told(), memoryview(b"")
    for _ in range(HEADER_LIMIT):
        block = bytes(window.at(place, BLOCK))
        if block == _ZEROS:
            broken, place = _at_zeros(window, place)
            if broken is not None:
                yield broken, nothing
            if place < 0:
                return
            continue
        header = _header_at(window, block, place, told)
        if isinstance(header, str):
            yield _broken(place, header), nothing
            place, told = window.next_header(place + BLOCK, window.length), Told()
            if place < 0:
                return
            continue
        start, place = place + BLOCK, place + BLOCK + -(-header.size // BLOCK) * BLOCK
        if header.kind == PAX_GLOBAL:
            problem = _global_problem(header, window, start)
            if problem:
                yield _broken(start - BLOCK, problem), nothing
        elif header.kind in (*PAX, GNU_NAME, GNU_LINK):
            told = _told(header, window, start, told)
        else:
            member = _member(header, told, start)
            yield member, nothing if member.problem else window.at(start, header.size)
            told = Told()
    yield _broken(place, f"comes behind {HEADER_LIMIT:,} headers, the limit"), nothing


def _header_at(window: _Window, block: bytes, place: int, told: Told) -> Header | str:
    if len(block) < BLOCK:
        return "is the end of the file: the tar was cut short"
    header = read_header(block)
    if isinstance(header, str):
        return header
    if place + BLOCK + header.size > window.length:
        return (
            f"is the header of {shown(header.name)}, whose {header.size} bytes run beyond the file"
        )
    if told.size and told.size != str(header.size):
        return f"is a header of {header.size} bytes, but its pax header says {told.size[:20]!r}"
    return header


def _broken(place: int, reason: str) -> Member:
    return Member("", place, 0, 0, f"byte {place} {reason}", broken=True)


def _at_zeros(window: _Window, place: int) -> tuple[Member | None, int]:
    """Return what is wrong with the end of an archive, and where to go on (-1: nowhere)."""
    end = min(place + _END_LIMIT, window.length)
    following = window.next_header(place + BLOCK, end)
    if following >= 0:
        return _broken(place, "is zero, the end of a tar, and yet members follow"), following
    if end < window.length:
        reason = "and what follows was not looked at: the tar ended long before"
        return _broken(end, reason)._replace(broken=False), -1
    return None, -1


def headers(read: Read, place: int, end: int) -> Iterator[tuple[int, Header]]:
    """Yield (place, header) of each whole header from a block on, whatever lies between them."""
    while place < end:
        window = read(min(_WINDOW, end - place), place)
        for first in range(0, len(window) - BLOCK + 1, BLOCK):
            if window[first + 257 : first + 262] == b"ustar":
                header = read_header(window[first : first + BLOCK])
                if not isinstance(header, str):
                    yield place + first, header
        if len(window) < BLOCK:
            return
        place += len(window) // BLOCK * BLOCK


def _told(header: Header, window: _Window, start: int, before: Told) -> Told:
    if header.size > EXTENSION_LIMIT:
        what = "pax" if header.kind in PAX else "GNU"
        reason = f"has a {what} header of {header.size} bytes, over the limit of {EXTENSION_LIMIT}"
        return before._replace(problem=reason)
    return told_by(header, bytes(window.at(start, header.size)), before)


def _global_problem(header: Header, window: _Window, start: int) -> str:
    if header.size > EXTENSION_LIMIT:
        return f"is a pax global header of {header.size} bytes, over the limit of {EXTENSION_LIMIT}"
    records = pax_records(bytes(window.at(start, header.size)))
    if records is None:
        return "is a pax global header that is not well formed"
    for key in records:
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            return f"is a pax global header that sets {key.decode('ascii', 'replace')[:20]}"
    return ""


def _member(header: Header, told: Told, start: int) -> Member:
    name = told.name or header.name
    problem = header.problem or told.problem or name_problem(name)
    if not problem and header.size > IMAGE_LIMIT:
        problem = f"has {header.size} bytes, over the limit of {IMAGE_LIMIT}"
    if problem:
        problem = f"member {shown(name)} {problem}"
    return Member(name, start, header.size, 0, problem)

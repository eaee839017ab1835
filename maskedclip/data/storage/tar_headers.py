"""What one header of a tar says, and whether a member of that name may be read at all."""

import re
import zlib
from typing import NamedTuple

BLOCK = 512
NAME_LIMIT = 255  # bytes
EXTENSION_LIMIT = 1 << 16  # bytes that a pax or GNU header may say of a member
_MAGIC = slice(257, 263)
_REFUSED = {
    b"1": "is a hard link",
    b"2": "is a symbolic link",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a named pipe",
    b"7": "is a contiguous file",
}
_WITHOUT_CONTENT = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_PLAIN, _FOLDER, _SPARSE = (b"0", b"\0"), b"5", b"S"
_OCTAL = re.compile(b"[0-7]+")
_USUAL = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,4}(\.[A-Za-z0-9]+){1,3}")
PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK = (b"x", b"X"), b"g", b"L", b"K"


class Header(NamedTuple):
    """One header that can be followed."""

    name: str  # ends with a slash where it is a folder
    kind: bytes
    size: int  # of the content behind it, in bytes
    problem: str  # why the member is refused, empty where it is a plain file


class Told(NamedTuple):
    """What extension headers say of the next member."""

    name: str = ""
    size: str = ""
    problem: str = ""


def read_header(block: bytes) -> Header | str:
    """Return the header that a block is, or why the walk cannot go on from it."""
    written = _octal(field := block[148:156])
    # the low half of this Adler-32 is the sum of all bytes, modulo a prime: 20 times as fast
    total = zlib.adler32(block, 0) & 0xFFFF
    if written is None or (written + sum(field) - 8 * ord(" ") - total) % 65521:
        return "is no header: its checksum is wrong"
    size = _octal(block[124:136])
    if size is None:
        return "has a size in base 256 or none at all: negative, or over 8 GiB"
    kind = block[156:157]
    if kind == _SPARSE:
        return f"holds the sparse file {shown(block[:100])}"
    raw, rest = _text(block[:100])
    if block[345] and block[_MAGIC] == b"ustar\0":  # GNU's own format has times in that field
        folders, more = _text(block[345:500])
        raw, rest = (folders + b"/" + raw if folders else raw), rest + more
    if kind == _FOLDER and not raw.endswith(b"/"):
        raw += b"/"  # so that the name tells a folder
    if raw.endswith(b"/"):
        size = 0
    if kind in _WITHOUT_CONTENT:
        size = 0
    problem = _REFUSED.get(kind, "")
    if not problem and rest:
        problem = "has a NUL within its name"
    if not problem and kind not in (*_PLAIN, _FOLDER, *PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK):
        problem = f"is of the unknown type {ascii(kind)[1:]}"
    return Header(raw.decode("utf-8", "surrogateescape"), kind, size, problem)


def shown(name: bytes | str) -> str:
    """Return a name as ASCII in quotes, cut to a sane length."""
    if isinstance(name, bytes):
        name = name.rstrip(b"\0").decode("utf-8", "surrogateescape")
    return ascii(name[:80])


def name_problem(name: str) -> str:
    """Return why a member of this name is refused, empty where it is not."""
    if len(name) <= NAME_LIMIT and _USUAL.fullmatch(name):
        return ""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    if not size:
        return "has no name"
    if size > NAME_LIMIT:
        return f"has a name of {size} bytes, over the limit of {NAME_LIMIT}"
    if not name.isprintable():
        return "has control characters in its name"
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute name"
    if "\\" in name:
        return "has a backslash in its name"
    if ".." in name.split("/"):
        return "has a name that leads out of its folder"
    return ""


def told_by(header: Header, content: bytes, before: Told) -> Told:
    """Return what is known of the next member behind an extension header of a member."""
    if header.kind == GNU_LINK:  # a target, of a link that is refused anyway
        return before
    if header.kind == GNU_NAME:
        name, rest = _text(content)
        problem = "has a NUL within its GNU name" if rest else before.problem
        return before._replace(name=name.decode("utf-8", "surrogateescape"), problem=problem)
    records = pax_records(content)
    if records is None:
        return before._replace(problem="has a pax header that is not well formed")
    if any(key.startswith(b"GNU.sparse") for key in records):
        return before._replace(problem="is a sparse file, by its pax header")
    name, size = records.get(b"path", b""), records.get(b"size", b"")
    if b"\0" in name:
        return before._replace(problem="has a NUL within its pax name")
    return before._replace(
        name=name.decode("utf-8", "surrogateescape") or before.name,
        size=size.decode("ascii", "replace") or before.size,
    )


def pax_records(content: bytes) -> dict[bytes, bytes] | None:
    """Return the records of a pax header, None where one is not as long as it says."""
    found, place = {}, 0
    while place < len(content):
        space = content.find(b" ", place, place + 8)
        if space < 0 or not content[place:space].isdigit():
            return None
        end = place + int(content[place:space])
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if end > len(content) or not equals or content[end - 1 : end] != b"\n":
            return None
        found[key] = value
        place = end
    return found


def _text(field: bytes) -> tuple[bytes, bytes]:
    """Return what stands before the first NUL, and what is hidden behind it."""
    text = field.rstrip(b"\0")
    first, _, rest = text.partition(b"\0")
    return first, rest


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0") or b"0"
    return int(digits, 8) if _OCTAL.fullmatch(digits) else None

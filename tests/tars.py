"""Tars made by hand, header by header, as no honest program would write them."""

import io
import tarfile

import numpy as np
import simplejpeg

JPEG = simplejpeg.encode_jpeg(np.full((8, 8, 3), 90, np.uint8))
END = bytes(1024)


def header(
    name: bytes,
    size: int | bytes,
    kind: bytes = b"0",
    *,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """Return one block; a size of bytes is written as it is."""
    folders = b""
    if len(name) > 100:  # what does not fit goes before the name
        cut = name.rindex(b"/", 0, 156)
        folders, name = name[:cut], name[cut + 1 :]
    digits = size if isinstance(size, bytes) else b"%011o\0" % size
    block = b"".join(
        [
            name.ljust(100, b"\0"),
            b"0000644\0" + b"0000000\0" * 2,
            digits.ljust(12, b"\0"),
            b"00000000000\0",
            b" " * 8,
            kind,
            link.ljust(100, b"\0"),
            magic,
            bytes(80),
            folders.ljust(155, b"\0"),
            bytes(12),
        ]
    )
    assert len(block) == 512
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def member(name: bytes | str, content: bytes, kind: bytes = b"0") -> bytes:
    """Return a header, its content and the padding."""
    name = name.encode() if isinstance(name, str) else name
    return header(name, len(content), kind) + padded(content)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def sample(key: str, caption: str = "an eye") -> bytes:
    """Return a whole sample with a small photograph."""
    return member(f"{key}.jpg", JPEG) + member(f"{key}.txt", caption.encode())


def pax(records: dict[str, str]) -> bytes:
    """Return an extension header of the next member, with records as they are given."""
    return member("pax", b"".join(_record(f"{k}={v}".encode()) for k, v in records.items()), b"x")


def _record(text: bytes) -> bytes:
    length = len(text) + 2
    while length != len(text) + 2 + len(str(length)):
        length = len(text) + 2 + len(str(length))
    return b"%d " % length + text + b"\n"


def plain_tar(members: dict[str, bytes], **options: object) -> bytes:
    """Return a tar as Python writes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()

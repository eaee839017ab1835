"""The bytes of an image file that somebody put there: a plain file, not too large to hold."""

import os
import stat
from pathlib import Path

from maskedclip.data.photographs.decoding import UnreadableImage

FILE_LIMIT = 512_000_000  # bytes; 80 million pixels of four colours are 320 MB uncompressed


def read_image_file(path: Path) -> bytes:
    """Return what a file holds.

    Raises UnreadableImage, its message the reason, where it is a link to nothing, no regular file
    (a pipe would be waited for), larger than FILE_LIMIT, or not given out by the system.
    """
    if path.is_symlink() and not path.exists():
        raise UnreadableImage("cannot be read: a symbolic link to nothing")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:  # what was opened is looked at, not the name
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise UnreadableImage("cannot be read: it is no regular file")
            if facts.st_size > FILE_LIMIT:
                size, limit = facts.st_size / 1e6, FILE_LIMIT / 1e6
                raise UnreadableImage(f"{size:,.0f} MB is over the limit of {limit:,.0f} MB a file")
            return file.read(FILE_LIMIT)
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror}") from error

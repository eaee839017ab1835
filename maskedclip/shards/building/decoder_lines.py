"""What decoders print of a file by themselves, caught to be said with the file's name."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_SHOWN = 2  # different lines of one file


@contextmanager
def decoder_lines(content: bytes) -> Iterator[list[str]]:
    """Yield a list that holds, at the end, what was printed meanwhile: Pillow's and libtiff's.

    libtiff writes to the process's stderr itself, which is turned aside for a TIFF: for who decodes
    in one thread.
    """
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            yield lines
        else:
            sys.stderr.flush()
            kept = os.dup(2)
            with tempfile.TemporaryFile() as aside:
                os.dup2(aside.fileno(), 2)
                try:
                    yield lines
                finally:
                    os.dup2(kept, 2)
                    os.close(kept)
                    aside.seek(0)
                    printed = aside.read(1 << 16).decode("utf-8", "replace")
                    lines += [" ".join(line.split()) for line in printed.splitlines()]
        lines += [" ".join(str(warning.message).split()) for warning in said]
    lines[:] = [line for line in dict.fromkeys(lines) if line][:_SHOWN]

"""A .pth as torch writes it, checked as a zip archive and read without running what is in it."""

import logging
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
_CHUNK = 1 << 22  # bytes
_DAMAGED = "its copy or download broke off, or it is damaged; make it again"
# modules that torch's own tensors name: where another name of theirs stands, the file is damaged
_OF_TENSORS = {"torch", "collections", "_codecs"}


def read_pickle(path: Path) -> Any:
    """Return what a .pth holds, where that is tensors, plain values and argparse's arguments.

    Raises ValueError where it is damaged, or holds more.
    """
    import argparse

    import torch

    zipped = is_zip(path)
    if zipped:
        check_archive(path)
    else:
        logger.warning("%s: of torch before 1.6, without checksums: damage may be unseen", path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # what a damaged pickle raises is not a closed list
        raise ValueError(f"{path}: {_why_not(str(error), path, zipped)}") from error


def is_zip(path: Path) -> bool:
    """Return whether a file begins as torch's archives do, be it whole or not."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_archive(path: Path, *, torchscript: bool = False) -> None:
    """Raise ValueError where a member of torch's archive is damaged or more than the file holds.

    torch itself reads past the checksums.

    Args:
        torchscript: whether an archive of TorchScript may be given; it packs its code, which is
            then not looked at.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if not torchscript and any(name.endswith("/constants.pkl") for name in names):
                raise ValueError(f"a TorchScript archive; {_convert(path)}")
            if not any(name.endswith("data.pkl") for name in names):
                held = f" (of {names[0]} ...)" if names else ""
                if any(name.endswith(".npy") for name in names):
                    raise ValueError("NumPy arrays, not weights of PyTorch; name it .npz")
                raise ValueError(f"a zip archive{held} and no torch file; unpack it")
            code = re.compile(r"[^/]+/(code/|.*\.debug_pkl)") if torchscript else None
            read = [member for member in members if not (code and code.match(member.filename))]
            check_members(path, archive, read)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # zipfile, struct, zlib, by the byte that is damaged
        raise ValueError(f"{path}: not a whole torch file ({_line(error)}); {_DAMAGED}") from error


def check_members(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> None:
    """Raise ValueError where one is compressed, too large or there twice, or its CRC is wrong."""
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(
            f"{packed[0]} in it is compressed, which torch never does, nor numpy.savez; not read"
        )
    total, size = sum(member.file_size for member in members), path.stat().st_size
    if total > size:
        raise ValueError(f"its parts claim {total:,} bytes and the file has {size:,}; not read")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two parts of it have one name; not read")
    for member in members:
        with archive.open(member) as content:  # zipfile compares the CRC at the end
            while content.read(_CHUNK):
                pass


def _why_not(reason: str, path: Path, zipped: bool) -> str:
    """Return what is wrong with a file that torch's safe reader refuses, for these reasons."""
    # what torch says before it comes to the point
    reason = re.sub(r"(?s)^Weights only load failed.*?(WeightsUnpickler error:|\n\n)", "", reason)
    named = re.search(r"nsupported (?:global: |class )?(?:GLOBAL )?(\w+\.[\w.]+)", reason)
    foreign = named is not None and named[1].split(".")[0] not in _OF_TENSORS
    if named is not None and (foreign or zipped):
        return f"holds more than tensors ({named[1]}); {_convert(path)}"
    if zipped and "Unsupported operand" in reason:  # no damage: its checksums are right
        return f"holds more than tensors, or in another pickle than torch's; {_convert(path)}"
    return f"not a whole torch file ({_line(reason)}); {_DAMAGED}"


def _convert(path: Path) -> str:
    name = shlex.quote(str(path))
    return f"if you trust whoever made it: python tools/convert_weights.py {name}"


def _line(error: object) -> str:
    """Return the first sentence of a reason."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120].rstrip(".:;, ")

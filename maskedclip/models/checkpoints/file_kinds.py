"""What a file is by its first bytes, where it is named as weights and is something else."""

import re
import struct
from pathlib import Path

_HEAD = 1024  # bytes that are looked at
SAFETENSORS, TORCH = ".safetensors", ".pth"
_UNPACK = "unpack it, and give the file of weights in it"
_AGAIN = "give a .safetensors or .pth of weights"

# (where, bytes there, what it is, what to do)
_MAGIC = (
    (0, b"version https://git-lfs", "a git-LFS pointer", "run git lfs pull, or download the file"),
    (0, b"\xff\xd8\xff", "a JPEG image", _AGAIN),
    (0, b"\x89PNG\r\n", "a PNG image", _AGAIN),
    (0, b"GIF8", "a GIF image", _AGAIN),
    (0, b"II*\0", "a TIFF image", _AGAIN),
    (0, b"MM\0*", "a TIFF image", _AGAIN),
    (8, b"WEBP", "a WebP image", _AGAIN),
    (4, b"ftyp", "a video or an image", _AGAIN),
    (128, b"DICM", "a DICOM file", _AGAIN),
    (0, b"%PDF", "a PDF", _AGAIN),
    (0, b"\x89HDF", "an HDF5 file, as Keras and TensorFlow write it", "give PyTorch's weights"),
    (0, b"\x93NUMPY", "a NumPy array", _AGAIN),
    (0, b"GGUF", "a GGUF file", "give PyTorch's weights"),
    (0, b"SQLite format 3", "an SQLite database", _AGAIN),
    (0, b"\x7fELF", "a program", _AGAIN),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
)


def check_kind(path: Path, wanted: str) -> None:
    """Raise ValueError where a file is, by its first bytes, no weights, or not those wanted.

    Args:
        wanted: SAFETENSORS or TORCH.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    size = path.stat().st_size
    what, fix = _other_kind(head, size)
    kind = _kind(head, size)
    if not what and kind != wanted:
        if kind:
            what, fix = f"a {kind} file by its content", f"rename it to {path.stem}{kind}"
        elif wanted == SAFETENSORS:
            what, fix = "no safetensors file", "it is damaged; copy or download it again"
        else:
            what, fix = "no file that torch.save writes", "it is damaged, or of another program"
    if what:
        raise ValueError(f"{path}: {what}; {fix}")


def _kind(head: bytes, size: int) -> str:
    """Return the ending of a file of weights that begins so; "" for neither."""
    if head.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", head):
        return TORCH
    length = struct.unpack("<Q", head[:8])[0] if len(head) > 8 else size
    return SAFETENSORS if length < size and head[8:9] == b"{" else ""


def _other_kind(head: bytes, size: int) -> tuple[str, str]:
    """Return what begins so, and what to do; nothing where it is a file of weights or unknown."""
    if not head:
        return "an empty file", "copy or download it again"
    if not head.strip(b"\0"):
        return "holds only zeros", "its copy or download broke off; make it again"
    for at, magic, what, fix in _MAGIC:
        if head[at:].startswith(magic):
            return f"{what}, not weights", fix
    if _kind(head, size):
        return "", ""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if re.match(rb"<(!doctype|html|head|body|script)", text):
        fix = "a login or a licence page came in its place; sign in, accept, and download the file"
        return "an HTML page, not weights", fix
    if not _is_text(head):
        return "", ""
    if text.startswith(b"<"):
        return "an XML file, not weights", _AGAIN
    if text[:1] in (b"{", b"["):
        return "a JSON file, not weights", _AGAIN
    return "a text, not weights", _AGAIN


def _is_text(head: bytes) -> bool:
    if re.search(rb"[\0-\x08\x0e-\x1f\x7f]", head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a letter that is cut at the end
    return True

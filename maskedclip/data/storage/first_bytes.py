"""Files that are not what their name says: pages of errors, pointers of Git LFS, empty ones."""

import re


def not_the_file(first: bytes) -> str:
    """Return what a file is by its first 64 bytes, and what to do; empty where nothing shows."""
    if not first.strip():
        return "is empty; download or copy it again"
    if first.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file; `git lfs pull` gets it"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml)", first, re.IGNORECASE):
        return "is a web page, not the file; download it again"
    return ""

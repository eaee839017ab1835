"""Whose photographs and reports may be shown where others look: in TensorBoard, on pages."""

from collections.abc import Mapping
from typing import Any

# word for word, as cards state them: "CC BY 4.0, ask the host" is none of these
_OPEN = ("as this project", "CC BY 4.0", "CC0 1.0")  # the first is of phantoms


def may_be_shown(manifest: Mapping[str, Any]) -> bool:
    """Return whether the licence in a dataset's manifest lets anyone show its images and texts."""
    return manifest.get("licence") in _OPEN

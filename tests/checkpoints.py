"""Checkpoints that were changed by somebody who knows their form."""

import hashlib
import json
from pathlib import Path
from typing import Any


def resealed(directory: Path, **facts: Any) -> None:
    """Rewrite a manifest so that it fits the files as they are now, and these facts."""
    manifest = directory / "manifest.json"
    content = json.loads(manifest.read_text()) | facts
    content["sha256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path != manifest
    }
    manifest.write_text(json.dumps(content))

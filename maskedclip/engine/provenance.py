"""What a run was made of, so that a number can be traced: code, versions, data, place, command."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "timm", "transformers", "numpy", "scikit-learn", "webdataset", "submitit")


def provenance(datasets: Iterable[Path], seed: int, world: int) -> dict[str, Any]:
    """Return the facts as a JSON object; `datasets` are shard directories."""
    return {
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "manifests_sha256": {
            str(path): hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
            for path in datasets
        },
        "seed": seed,
        "world": world,
        "host": platform.node(),
        "slurm": {k: v for k, v in sorted(os.environ.items()) if k.startswith("SLURM_JOB")},
        "command": shlex.join(sys.argv),
    }


def record(facts: dict[str, Any], path: Path) -> None:
    """Write the facts of this start of a run; earlier starts are kept before them."""
    lives = json.loads(path.read_text()) if path.exists() else []
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps([*lives, facts], indent=1) + "\n")
    temporary.replace(path)


def _git() -> dict[str, str] | None:
    """Return the commit and the hash of what differs from it; None outside a checkout."""
    here = Path(__file__).parent

    def ask(*words: str) -> bytes | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout if done.returncode == 0 else None

    commit, difference = ask("rev-parse", "HEAD"), ask("diff", "HEAD")
    if commit is None or difference is None:
        return None
    digest = hashlib.sha256(difference).hexdigest() if difference else ""
    return {"commit": commit.decode().strip(), "diff_sha256": digest}

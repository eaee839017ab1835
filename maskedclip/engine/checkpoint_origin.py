"""Whose a checkpoint is: written by this user, in this run, with this configuration."""

import json
import logging
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

logger = logging.getLogger(__name__)
MANIFEST, RUN, CONFIG = "manifest.json", "run", "config"  # a file, and keys of it
_SHOWN = 3  # fields in a message


def check_origin(paths: Sequence[Path]) -> None:
    """Raise ValueError where somebody else owns or may write what is in these directories.

    Rules of an access control list are not seen.
    """
    if not paths:
        return
    ours, modes = _of_a_new_folder(paths[0].parent)
    for directory in paths:
        with suppress(FileNotFoundError):  # an earlier start of the run removes it
            for path in (directory, *directory.iterdir()):
                facts = path.stat()
                why = ""
                if facts.st_uid not in ours:
                    why = f"belongs to user {_name(facts.st_uid)}, not to {_name(os.geteuid())}"
                elif modes and facts.st_mode & stat.S_IWOTH:
                    why = "may be written by everybody (chmod -R o-w takes that away)"
                if why:
                    raise ValueError(
                        f"{path}: {why}: whoever wrote it chooses what this run becomes; if you "
                        f"trust it, add --i_trust_this_directory"
                    )


def _of_a_new_folder(folder: Path) -> tuple[set[int], bool]:
    """Return whom files of this process belong to there, and whether modes are kept.

    A storage may give all files to one user (root to nobody), or have one mode for all.
    """
    ours = {os.geteuid(), 0}
    try:
        with TemporaryDirectory(".tmp", "step-owner.", folder, ignore_cleanup_errors=True) as made:
            facts = Path(made).stat()
    except OSError:
        return ours, True
    if facts.st_mode & stat.S_IWOTH:
        logger.warning("%s: its storage keeps no modes: who may write is not known", folder)
    return ours | {facts.st_uid}, not facts.st_mode & stat.S_IWOTH


def _name(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def close_to_others(path: Path) -> None:
    """Take away what a umask of 0 gives everybody: the right to write."""
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        path.chmod(stat.S_IMODE(mode) & ~stat.S_IWOTH)


def run_of(paths: Sequence[Path]) -> str:
    """Return the name that the newest of a run's checkpoints have for it, or a new one."""
    names = (_manifest(path).get(RUN) for path in paths)
    return next((name for name in names if name), "") or secrets.token_hex(8)


def of_another(path: Path, others: Sequence[Path], config: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint is of another run than others, or another configuration.

    Fields that only one of the two has are of another version: they are not compared.
    """
    manifest = _manifest(path)
    for other in others:
        name = _manifest(other).get(RUN)
        if name and manifest.get(RUN) and name != manifest[RUN]:
            raise ValueError(
                f"{path}: a checkpoint of another run than {other}; remove the one that is not of "
                f"this run"
            )
    saved = manifest.get(CONFIG) or {}
    now = json.loads(json.dumps(dict(config)))  # tuples are lists there
    changed = [name for name in now if name in saved and saved[name] != now[name]]
    if changed:
        shown = "; ".join(f"{n} {saved[n]!r}, now {now[n]!r}" for n in changed[:_SHOWN])
        raise ValueError(
            f"{path}: saved by a run with {shown}; remove it if it is not of this run, or use "
            f"another --name"
        )


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return {}  # damaged: `verify` says so
    return content if isinstance(content, dict) else {}

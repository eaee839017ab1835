"""The code as it was submitted: copied beside a job, which may start, or start again, days later.

    code/3f9a1c0b7d52/maskedclip/   the package: what git has or would add, as it was on the disk
    code/3f9a1c0b7d52/commit.txt    the commit; absent where git has none of this package
    code/3f9a1c0b7d52/changes.diff  from that commit to this code: git apply makes one the other

The folder is named after its content, so that the same code is kept once.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

COMMIT, CHANGES = "commit.txt", "changes.diff"
_PACKAGE = Path(__file__).parents[1]


def snapshot(into: Path) -> Path:
    """Copy the package that runs now into a folder of `into`, unless it is there; return it.

    The folder is to come first on PYTHONPATH, as `on_code` says to a shell. Raises RuntimeError
    where one of that name holds other code.
    """
    content = _files() | _facts()
    target = _target(into, content)
    if target.is_dir():
        if _digest(_content(target)) != target.name:
            raise RuntimeError(
                f"{target}: this copy of the code was changed after it was taken; remove it when "
                f"no job needs it, and submit again"
            )
        return target
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".", ignore_cleanup_errors=True) as folder:
        for name, data in content.items():
            path = Path(folder) / "copy" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            (Path(folder) / "copy").rename(target)
        except OSError:  # another submission was first
            if not target.is_dir():
                raise
    return target


def snapshot_path(into: Path) -> Path:
    """Return the folder that `snapshot` would return now, and touch nothing."""
    return _target(into, _files() | _facts())


def on_code(code: Path) -> list[str]:
    """Return the lines of a shell that let its Python run a snapshot, and nothing in its place.

    A `python -m` would look into the working directory first, which may be the checkout.
    """
    return [
        f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        "export PYTHONSAFEPATH=1",
    ]


def this_code() -> dict[str, str]:
    """Return the variables that let a child's Python run this package, wherever it starts."""
    paths = [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


def _target(into: Path, content: Mapping[str, bytes]) -> Path:
    return into.resolve() / _digest(content)


def _files() -> dict[str, bytes]:
    """Return the package's files by their paths from the folder above it."""
    above = _PACKAGE.parent
    if _in_git():
        listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", ".")
        paths = [_PACKAGE / os.fsdecode(name) for name in listed.split(b"\0") if name]
    else:
        paths = [path for path in _PACKAGE.rglob("*") if "__pycache__" not in path.parts]
    # git also lists what has been removed from the disk
    return {str(path.relative_to(above)): path.read_bytes() for path in paths if path.is_file()}


def _facts() -> dict[str, bytes]:
    """Return the commit and what differs from it, as git says or as a snapshot has kept it."""
    if _in_git():
        # without a first commit there is nothing to differ from
        return {COMMIT: _git("rev-parse", "HEAD"), CHANGES: _changes()} if _committed() else {}
    kept = [_PACKAGE.parent / name for name in (COMMIT, CHANGES)]
    return {path.name: path.read_bytes() for path in kept if path.is_file()}


def _changes() -> bytes:
    """Return the difference of the package from the commit, new files with it."""
    index = _PACKAGE / os.fsdecode(_git("rev-parse", "--git-path", "index").rstrip(b"\n"))
    with tempfile.TemporaryDirectory() as folder:
        # git shows the content of new files where its index names them: a copy does, not the user's
        copy = shutil.copy(index, folder)
        _git("add", "--intent-to-add", "--", ".", index=copy)
        return _git("diff", "--binary", "HEAD", "--", ".", index=copy)


def _in_git() -> bool:
    """Return whether git keeps this package, rather than a checkout that happens to surround it."""
    try:
        return bool(_git("ls-files", "--", "__init__.py"))
    except (OSError, subprocess.CalledProcessError):
        return False


def _committed() -> bool:
    try:
        return bool(_git("rev-parse", "--verify", "--quiet", "HEAD"))
    except subprocess.CalledProcessError:
        return False


def _git(*words: str, index: str = "") -> bytes:
    environment = os.environ | ({"GIT_INDEX_FILE": index} if index else {})
    return subprocess.run(
        ["git", *words], cwd=_PACKAGE, env=environment, capture_output=True, check=True
    ).stdout


def _content(folder: Path) -> dict[str, bytes]:
    """Return the files of a snapshot, without those that Python adds as it runs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _digest(content: Mapping[str, bytes]) -> str:
    """Return twelve hexadecimal digits that name files and what is in them."""
    digest = hashlib.sha256()
    for name, data in sorted(content.items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:12]

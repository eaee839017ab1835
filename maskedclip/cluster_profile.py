"""What a cluster wants of every job, kept in one file for all runs.

~/.config/maskedclip/cluster.toml has a table a cluster, or a way of using it. [default] always
counts, and --profile=NAME puts the values of [NAME] over it; the command line has the last word.

    [default]
    account = "eye-ai"
    partition = "gpu"
    hours = 72
    constraint = "a100"
    sbatch = ["--reservation=fundus"]
    setup = ["module load cuda/12.6"]

    [short]
    partition = "debug"
    hours = 1
"""

import difflib
import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from maskedclip.config import LaunchConfig, override

DEFAULT = "default"
_OWN = ("profile", "dry_run")  # which a profile cannot say


def profile_file() -> Path:
    """Return where the profiles are: below $XDG_CONFIG_HOME, or ~/.config."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "maskedclip" / "cluster.toml"


def profiled(name: str = "") -> LaunchConfig:
    """Return the options of a launch as [default] and the table `name` have them.

    Without a file there are no profiles. Raises ValueError, in one line, for a file that cannot be
    read as one, and for a profile or field that is not there, with the nearest.
    """
    path = profile_file()
    if not path.is_file():
        if name:
            raise ValueError(
                f"--profile={name}: there is no {path}; write it, with a table [{name}]"
            )
        return LaunchConfig()
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not TOML ({error}); fix it, or move it away") from None
    if name and name not in tables:
        near = difflib.get_close_matches(name, tables, n=1) or [", ".join(tables) or "none"]
        raise ValueError(f"{path}: has no profile {name!r}; did you mean {near[0]}?")
    launch = LaunchConfig()
    for table in dict.fromkeys((DEFAULT, name)):
        launch = _with(launch, tables.get(table, {}), f"{path}: [{table}]")
    return launch


def _with(launch: LaunchConfig, values: Any, where: str) -> LaunchConfig:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: is no table; write [NAME] and a line a field below it")
    known = [field.name for field in fields(launch) if field.name not in _OWN]
    for field in values:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1) or [", ".join(known)]
            raise ValueError(f"{where}: no field {field!r}; did you mean {near[0]}?")
    try:
        return override(launch, values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None

"""Cluster profiles: options of a launch that every job on a cluster needs, in one file.

~/.config/maskedclip/cluster.toml has one table for each cluster, or way of using it. [default]
always applies, --profile=NAME overrides it with [NAME], and the command line overrides both.

    [default]
    account = "eye-ai"
    partition = "gpu"
    hours = 72
    constraint = "a100"
    sbatch = ["--reservation=fundus"]
    setup = ["module load cuda/12.6"]
    python = "apptainer exec --nv --bind /data '/work/my images/maskedclip.sif' python"

    [short]
    partition = "debug"
    hours = 1
"""

import os
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from maskedclip.casting import did_you_mean
from maskedclip.config import LaunchConfig, override

DEFAULT = "default"
_NOT_IN_A_PROFILE = ("profile", "dry_run")


def profile_file() -> Path | None:
    """Return where the profiles are: below $XDG_CONFIG_HOME, or ~/.config; None without a HOME."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    try:
        return Path(folder or Path.home() / ".config") / "maskedclip" / "cluster.toml"
    except RuntimeError:  # a user whom the system does not know, as in containers
        return None


def profiled(name: str = "") -> LaunchConfig:
    """Return a LaunchConfig with the values of [default], and over them those of [name].

    Without a file there are no profiles. Raises ValueError for a file that is not TOML, and for an
    unknown profile or field, with the nearest.
    """
    path = profile_file()
    if path is None:
        home = "HOME is not set, and this user has no home directory"
        if name:
            raise ValueError(f"--profile={name}: {home}; export XDG_CONFIG_HOME=DIR")
        sys.stderr.write(f"{home}: no cluster.toml is read; else export XDG_CONFIG_HOME=DIR\n")
        return LaunchConfig()
    if not path.is_file():
        if name:
            raise ValueError(
                f"--profile={name}: there is no {path}; write it, with a table [{name}]"
            )
        return LaunchConfig()
    try:
        tables = tomllib.loads(path.read_text("utf-8-sig"))  # with the mark of Windows editors, too
    except ValueError as error:
        raise ValueError(f"{path}: is not TOML ({error}); fix it, or move it away") from None
    if name and name not in tables:
        near = did_you_mean(name, tables, f"it has {', '.join(tables) or 'none'}")
        raise ValueError(f"{path}: has no profile {name!r}; {near}")
    launch = LaunchConfig()
    for table in dict.fromkeys((DEFAULT, name)):
        launch = _with(launch, tables.get(table, {}), f"{path}: [{table}]")
    return launch


def _with(launch: LaunchConfig, values: Any, where: str) -> LaunchConfig:
    if not isinstance(values, dict):
        raise ValueError(
            f"{where}: is not a table; write [NAME] and one line for each field below it"
        )
    known = [field.name for field in fields(launch) if field.name not in _NOT_IN_A_PROFILE]
    for field in values:
        if field not in known:
            near = did_you_mean(field, known, f"use some of {', '.join(known)}")
            raise ValueError(f"{where}: no field {field!r}; {near}")
    try:
        return override(launch, values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None

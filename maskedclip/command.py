"""The command line: Fire gathers flags into a config, and nothing has run when one is wrong.

Fire calls a function first and complains of unknown arguments afterwards, so it is only given one
that collects them; values stay text until `override` knows which kind is wanted. Nothing here
imports torch: --help and mistakes answer at once.
"""

import difflib
import errno
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import fire
from fire.decorators import SetParseFn

from maskedclip.cluster_profile import profiled
from maskedclip.config import Config, LaunchConfig, field_names, override
from maskedclip.recipes import RECIPES

T = TypeVar("T")
_ANYWAY = "see that the place can be read and written, then run the same command again"
_MENDS = {
    errno.EACCES: "give yourself write permission or choose another --out",
    errno.EROFS: "choose an --out that can be written",
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room in your quota, then run the same command again",
    errno.EEXIST: "a file stands where a folder is wanted; choose another --out",
    errno.ENOTDIR: "a file stands where a folder is wanted; choose another --out",
}


def stop(message: object) -> NoReturn:
    """End the program with one line on stderr and exit code 2.

    Of torchrun's ranks on a machine the first to end says why: the others end for that reason.
    """
    if _first_to_end():
        sys.stderr.write(" ".join(str(message).split()) + "\n")
    raise SystemExit(2)


def _first_to_end() -> bool:
    own = os.environ.get("TORCHELASTIC_ERROR_FILE")  # in a folder a rank, in one of this attempt
    if own is None:
        return True
    try:
        (Path(own).parents[1] / "said").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors of the user (ValueError) and the world (RuntimeError, OSError) into one line."""
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        stop(f"{error.filename or 'disk'}: {what}; {_MENDS.get(error.errno or 0, _ANYWAY)}")
    except (ValueError, RuntimeError) as error:
        stop(error)
    except KeyboardInterrupt:
        stop("stopped; the same command begins again, or goes on from what is saved")


def read_flags(arguments: list[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """Return (words, flags) of a command line such as `demo --nodes 1 --optim.base_lr=1e-4`."""

    @SetParseFn(str)
    def collect(*words: str, **flags: str) -> tuple[list[str], dict[str, str]]:
        return list(words), flags

    return fire.Fire(collect, command=arguments, serialize=lambda _: None)


def check_flags(
    usage: str | None, config: Any, flags: Mapping[str, str], about: Sequence[str] = ()
) -> None:
    """End the program with the help where it is asked for, or at a flag that `config` has not.

    Args:
        about: lines that stand above the options in the help.
    """
    if flags.keys() & {"help", "h"}:
        lines = [str(usage).strip(), "", *about, "Options, as --NAME=VALUE:", *field_lines(config)]
        sys.stdout.write("\n".join(lines) + "\n")
        raise SystemExit(0)
    known = field_names(config)
    for name in flags:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            stop(f"no flag --{name}; " + (f"did you mean --{near[0]}?" if near else "see --help"))


def read_config(
    usage: str, options: T, default: str, arguments: list[str] | None = None
) -> tuple[Config, T]:
    """Return the recipe that the command line names, with its changes, and the other options.

    A flag belongs to `options` where it has such a field, else to the recipe's config. A
    LaunchConfig starts from the cluster's profile. --help
    prints `usage`, recipes and fields, and ends the program; mistakes end it in one line.
    """
    words, flags = read_flags(arguments)
    if flags.keys() & {"help", "h"}:
        sys.stdout.write(help_text(usage, options, RECIPES[default]()))
        raise SystemExit(0)
    name = words[0] if words else default
    if len(words) > 1:
        stop(f"{words[1]!r}: one recipe is enough; write changes as --field=value")
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1) or [", ".join(RECIPES)]
        stop(f"no recipe {name!r}; did you mean {near[0]}?")
    known = field_names(options) if is_dataclass(options) else []
    ours = {key: value for key, value in flags.items() if key in known}
    theirs = {key: value for key, value in flags.items() if key not in known}
    with one_line_errors():
        if isinstance(options, LaunchConfig):
            options = cast(T, profiled(ours.get("profile", options.profile)))
        unknown = [key for key in theirs if key not in field_names(Config())]
        if unknown:
            near = difflib.get_close_matches(unknown[0], [*known, *field_names(Config())], n=1)
            hint = f"did you mean --{near[0]}?" if near else "see --help"
            raise ValueError(f"no flag --{unknown[0]}; {hint}")
        return override(RECIPES[name](), theirs), override(options, ours) if ours else options


def help_text(usage: str, options: Any, config: Any) -> str:
    """Return the whole help: usage, recipes, and every field with its default and its meaning."""
    lines = [usage.strip(), "", "Recipes:"]
    for name, recipe in RECIPES.items():
        lines.append(f"  {name:18} {inspect.getdoc(recipe).splitlines()[0]}")  # type: ignore[union-attr]
    if is_dataclass(options):
        lines += ["", "Options:", *field_lines(options)]
    lines += ["", "Fields of the run, as --SECTION.FIELD=VALUE:", *field_lines(config)]
    return "\n".join(lines) + "\n"


def field_lines(config: Any, prefix: str = "") -> list[str]:
    """Return a line a field: flag, value, and the comment that stands beside it in the source."""
    notes = _comments(type(config))
    lines = []
    for field in fields(config):
        value, flag = getattr(config, field.name), f"--{prefix}{field.name}"
        if is_dataclass(value):
            lines += field_lines(value, f"{prefix}{field.name}.")
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            lines.append(f"  {f'{flag}={shown}':45} {notes.get(field.name, '')}".rstrip())
    return lines


def _comments(kind: type) -> Mapping[str, str]:
    source = inspect.getsource(kind)
    return dict(re.findall(r"^    (\w+):.*?  # (.*)$", source, flags=re.MULTILINE))

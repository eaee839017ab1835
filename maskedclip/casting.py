"""Text of a command line as a value of the kind that a field is annotated with."""

import difflib
import math
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

Lines = Annotated[tuple[str, ...], "text is one item: commas in it are its own"]


def did_you_mean(word: str, choices: Iterable[str], otherwise: str = "see --help") -> str:
    """Return how a message on an unknown word ends: the nearest choice, or `otherwise`."""
    known = list(choices)
    last = [name for name in known if name.rpartition(".")[2] == word]  # base_lr: optim.base_lr
    near = last or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else otherwise


def cast_value(value: Any, kind: Any, path: str) -> Any:
    """Return `value` as `kind`; text from a command line is read, nothing is rounded.

    kind is int, float, bool, str, Path, a tuple, `Lines`, a Literal or one of these or None; path
    names the field in the ValueError of a value that does not fit.
    """
    wrong = ValueError(f"{path}: {value!r} is not {_kind_in_words(kind)}")
    if get_origin(kind) is Annotated:  # Lines: text is one item, whatever commas are in it
        kind, value = get_args(kind)[0], ([value] if isinstance(value, str) else value)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None or value == "None":
            return None
        return cast_value(value, next(part for part in inner if part is not type(None)), path)
    if origin is Literal:
        if value not in inner:
            raise ValueError("; ".join(filter(None, [f"{wrong}", did_you_mean(value, inner, "")])))
        return value
    if origin is tuple:
        items = _bare(value).split(",") if isinstance(value, str) else list(value)
        items = [item.strip() if isinstance(item, str) else item for item in items if item != ""]
        kinds = [inner[0]] * len(items) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(items):
            raise wrong
        return tuple(cast_value(item, part, path) for item, part in zip(items, kinds, strict=True))
    return _cast_plain(value, kind, wrong)


def _bare(text: str) -> str:
    """Return a list without the brackets around it, if any; `My eyes (copy)` keeps its own."""
    text = text.strip()
    inner = text[1:-1]
    whole = text[:1] + text[-1:] in ("()", "[]") and not {*"()[]"} & {*inner}
    return inner if whole else text


def _cast_plain(value: Any, kind: type, wrong: ValueError) -> Any:
    if kind is bool:
        truth = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in truth:
            raise wrong
        return truth[str(value).lower()]
    if kind in (int, float):
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            raise _of_percent(value, wrong) if kind is float else wrong from None
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise wrong
        return kind(number)
    if kind is Path and value:
        return Path(value)
    if not isinstance(value, kind):
        raise wrong
    return value


def _of_percent(value: Any, wrong: ValueError) -> ValueError:
    """Return the error of a number that is none, with the share that 10% is."""
    found = re.fullmatch(r"([\d.]+) *%", str(value))
    try:
        return ValueError(f"{wrong}; write {float(found[1]) / 100:.12g}") if found else wrong
    except ValueError:  # 1.2.3%
        return wrong


def _kind_in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list such as a,b"
    if get_origin(kind) in (Union, types.UnionType):
        return _kind_in_words(get_args(kind)[0])
    names = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "Path": "a path",
    }
    return names.get(getattr(kind, "__name__", str(kind)), f"{kind}")

"""Text of a command line, or values of a JSON file, to what a field of a config holds."""

import difflib
import math
import types
from typing import Any, Literal, Union, get_args, get_origin


def cast_value(value: Any, kind: Any, path: str) -> Any:
    """Return `value` as `kind`; text from a command line is read, nothing is rounded.

    kind is int, float, bool, str, a tuple, a Literal or one of these or None; path names the field
    in the ValueError of a value that does not fit.
    """
    wrong = ValueError(f"{path}: {value!r} is not {_words(kind)}")
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None or value == "None":
            return None
        return cast_value(value, next(part for part in parts if part is not type(None)), path)
    if origin is Literal:
        if value not in parts:
            near = difflib.get_close_matches(str(value), [str(part) for part in parts], n=1)
            raise ValueError(f"{wrong}" + (f"; did you mean {near[0]}?" if near else ""))
        return value
    if origin is tuple:
        items = value.strip("()[] ").split(",") if isinstance(value, str) else list(value)
        items = [item.strip() if isinstance(item, str) else item for item in items if item != ""]
        inner = [parts[0]] * len(items) if parts[-1] is Ellipsis else list(parts)
        if len(inner) != len(items):
            raise wrong
        return tuple(cast_value(item, part, path) for item, part in zip(items, inner, strict=True))
    return _cast_plain(value, kind, wrong)


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
            raise wrong from None
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise wrong
        return kind(number)
    if not isinstance(value, kind):
        raise wrong
    return value


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list such as a,b"
    return {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(
        getattr(kind, "__name__", str(kind)), f"{kind}"
    )

"""The JSON and text of a sample, validated and brought to the fields of the format."""

import json
from collections.abc import Callable
from typing import Any, NoReturn

from maskedclip.data.cell_values import is_missing, patient_of, whole_number
from maskedclip.data.label_kinds import SEPARATOR
from maskedclip.data.storage.shard_writer import EMPTY_METADATA

_PIXELS = 1 << 31
_CAPTIONS = ("caption", "text", "report")


def own_metadata(content: bytes) -> dict[str, Any]:
    """Return the metadata of a sample of ours; ValueError where it is not valid."""
    metadata = _object(content)
    for name, (is_valid, expected) in _FIELDS.items():
        if name not in metadata:
            raise ValueError(f"metadata has no {name}")
        if not is_valid(metadata[name]):
            raise ValueError(f"metadata: {name} is not {expected}")
    metadata["patient"] = patient_of(
        metadata["patient"]
    )  # another writer of the format may say nan
    return metadata


def third_party_metadata(dataset: str, key: str, members: list[bytes]) -> dict[str, Any]:
    """Return the metadata of a third-party sample in our fields; ValueError for what is no text.

    The caption is the json's caption, text or report, else the txt; other fields are taken where
    they are of our types; the text of a cls is the label `cls`.

    Args:
        members: bytes of the json, txt and cls, empty where there is none.
    """
    content, text, label = members
    given, kinds = _with_texts(_object(content)) if content else ({}, {})
    taken = {
        name: given[name]
        for name in ("patient", "eye", "split", "labels", "categories", "width", "height")
        if name in given and _FIELDS[name][0](given[name])
    }
    captions = [given[name] for name in _CAPTIONS if _text(given.get(name)) and given[name].strip()]
    captions += [_decoded(text, "txt").strip()] if text else []
    metadata = EMPTY_METADATA | {"labels": {}, "categories": []} | taken
    metadata |= {"dataset": dataset, "source": key}
    metadata["report"] = next(filter(None, captions), None)
    written = _number_text(_decoded(label, "cls")) if label else ""
    if not is_missing(written):
        metadata["labels"] = {"cls": written} | metadata["labels"]
    return metadata | ({"kinds": kinds} if kinds else {})


def _with_texts(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the metadata with labels and patients as text, and the kinds of labels.

    Numbers are texts, nan and N/A are none, and a list of texts is joined: such a task is of kind
    "labels", and one of labels in another form "unread".
    """
    texts = dict(given)
    if "patient" in given:
        texts["patient"] = patient_of(_number_text(given["patient"]))
    labels = given.get("labels")
    if isinstance(labels, dict):
        written = {task: _number_text(value) for task, value in labels.items()}
        kinds = {task: _kind(value) for task, value in written.items()}
        written |= {task: _joined(written[task]) for task in kinds if kinds[task] == "labels"}
        texts["labels"] = {
            task: value
            for task, value in written.items()
            if kinds[task] != "unread"
            and not (value is None or (kinds[task] == "class" and is_missing(value)))
        }
        return texts, {task: kind for task, kind in kinds.items() if kind != "class"}
    return texts, {}


def _kind(value: Any) -> str:
    """Return the kind of a label that is a text, null or a list; "unread" of any other."""
    if value is None or _text(value):
        return "class"
    readable = _texts(value) and not any(SEPARATOR in label for label in value)
    return "labels" if readable else "unread"


def _joined(labels: list[str]) -> str | None:
    """Return the text of a list of labels; None where they only say that nothing is known."""
    stated = {" ".join(label.split()) for label in labels if not is_missing(label)}
    return None if labels and not stated else SEPARATOR.join(sorted(stated))


def _number_text(value: Any) -> Any:
    """Return a number or a text as classes are written: 1, 1.0 and "1.0" are "1", on one line."""
    number = type(value) in (bool, int, float)
    return whole_number(" ".join(str(value).split())) if number or isinstance(value, str) else value


def _decoded(content: bytes, member: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{member} is not UTF-8") from None


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = _DECODER.decode(_decoded(content, "metadata"))
    except RecursionError:
        raise ValueError("metadata is not JSON (nested too deeply)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"metadata is not JSON ({error})") from None
    except ValueError as error:
        raise ValueError(f"metadata is refused ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(value, dict):
        raise ValueError("metadata is not a JSON object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_without_repeats)


def _text(value: Any) -> bool:
    """Return whether a value is text that can be written: JSON may hold half of a character."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _text_or_null(value: Any) -> bool:
    return value is None or _text(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _labels(value: Any) -> bool:
    return isinstance(value, dict) and all(_text(k) and _text(v) for k, v in value.items())


def _pixels(value: Any) -> bool:
    return type(value) is int and 0 <= value < _PIXELS


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dataset": (_text, "text"),
    "source": (_text, "text"),
    "patient": (_text_or_null, "text or null"),
    "eye": (lambda value: value in (None, "L", "R"), "L, R or null"),
    "split": (_text_or_null, "text or null"),
    "labels": (_labels, "texts by text"),
    "categories": (_texts, "a list of texts"),
    "report": (_text_or_null, "text or null"),
    "width": (_pixels, "a number of pixels"),
    "height": (_pixels, "a number of pixels"),
    "sha256": (_text, "text"),
    "phash": (_text, "text"),
}
assert _FIELDS.keys() == EMPTY_METADATA.keys()

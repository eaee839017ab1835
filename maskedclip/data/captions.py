"""Captions of a sample, composed when it is loaded and so drawn again in every epoch.

A category is worded by its name or by one of its expert descriptions, as in FLAIR. A sample that
came with text of its own keeps to that text unless asked otherwise.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from maskedclip.data.expert_dictionary import CLASS_NAMES, EXPERT, KEYWORDS, NOT_DIAGNOSTIC

TEMPLATE = "A fundus photograph of [CLS]"
_KEYS = {key.lower(): key for key in EXPERT}
_OTHER_NAMES = KEYWORDS | CLASS_NAMES
# as the paper's datasets have them: the international scale, and IDRiD's risk
_RETINOPATHY = {
    "0": "no diabetic retinopathy",
    "1": "mild diabetic retinopathy",
    "2": "moderate diabetic retinopathy",
    "3": "severe diabetic retinopathy",
    "4": "proliferative diabetic retinopathy",
}
_EDEMA = {
    "0": "no referable diabetic macular edema",
    "1": "non clinically significant diabetic macular edema",
    "2": "diabetic macular edema",
}
_GRADED: dict[str, Mapping[str, str]] = {
    "diabetic_retinopathy": _RETINOPATHY,
    "macular_edema": _EDEMA,
}


class Wording(NamedTuple):
    """What captions of a dataset are made of: a template with [CLS], and words of categories."""

    template: str
    dictionary: Mapping[str, Sequence[str]] = EXPERT


def wording_of(manifest: Mapping[str, Any], template: str = "") -> Wording:
    """Return a dataset's own wording, as its card states it, over the dictionary's.

    Args:
        template: that all datasets get; "": each its own, and where it has none the usual one.
    """
    own = manifest.get("captions") or {}
    words = own.get("dictionary")
    return Wording(
        template or own.get("template") or TEMPLATE, {**EXPERT, **words} if words else EXPERT
    )


def keywords_of(text: str) -> list[str]:
    """Return the findings of a keyword string as the dataset words them, without repeats.

    Both the full-width and the plain comma separate; remarks on the image alone are left out.
    """
    parts = (" ".join(part.lower().split()) for part in re.split("[\N{FULLWIDTH COMMA},]", text))
    return list(dict.fromkeys(part for part in parts if part and part not in NOT_DIAGNOSTIC))


def categories_of(text: str) -> list[str]:
    """Return the findings of a keyword string: keys of EXPERT, own words where there is no key."""
    words = (_OTHER_NAMES.get(word, word) for word in keywords_of(text))
    return list(dict.fromkeys(_KEYS.get(word.lower(), word) for word in words))


def class_categories(task: str, classes: Sequence[str], published: object = None) -> list[str]:
    """Return what each class is called in captions.

    Args:
        published: the task's classes as the manifest has them: class -> category where the dataset
            says it, or names alone. Grades of known tasks have categories here, and any other class
            is called as it is.
    """
    own = published if isinstance(published, dict) else {}
    names = dict(_GRADED.get(task, {})) | own
    return [names.get(name, name) for name in classes]


_USUAL = Wording(TEMPLATE)


def prompts(category: str, wording: Wording = _USUAL) -> list[str]:
    """Return the captions of one category: by its name first, then by each description."""
    words = (category, *wording.dictionary.get(category, ()))
    return [_fill(wording.template, one) for one in words]


def captions(
    categories: Sequence[str],
    report: str | None,
    wording: Wording = _USUAL,
    prefer: str = "report",
) -> list[str]:
    """Return every caption a sample can get, none where it has neither category nor report.

    Args:
        prefer: "report" uses the report alone where there is one (FLAIR's rule for ODIR-5K),
            "categories" the categories alone where there are any, "both" all.
    """
    subjects = _subjects(categories, report, wording, prefer)
    return list(dict.fromkeys(text for wordings in subjects for text in wordings))


def caption(
    categories: Sequence[str],
    report: str | None,
    wording: Wording = _USUAL,
    prefer: str = "report",
    *,
    draw: float,
) -> str:
    """Return one caption: uniform over the subjects, then over the wordings of that subject.

    Args:
        draw: a number in [0, 1), which alone decides.

    Raises ValueError where the sample has neither category nor report.
    """
    subjects = _subjects(categories, report, wording, prefer)
    if not subjects:
        raise ValueError("no category and no report, so no caption; use the sample unpaired")
    index, rest = divmod(draw * len(subjects), 1)
    wordings = subjects[int(index)]
    return wordings[int(rest * len(wordings))]


def _subjects(
    categories: Sequence[str], report: str | None, wording: Wording, prefer: str
) -> list[list[str]]:
    """Return the wordings of each subject: a report has one, as it is; a category has several."""
    if prefer not in ("report", "categories", "both"):
        raise ValueError(f"prefer is {prefer!r}; use 'report', 'categories' or 'both'")
    template = wording.template
    if "[CLS]" not in template:
        raise ValueError(f"caption template {template!r} has no [CLS]; put it where the words go")
    named = [prompts(category, wording) for category in categories]
    quoted = [[_fill(template, report)]] if report else []
    if prefer == "both":
        return quoted + named
    return (quoted or named) if prefer == "report" else (named or quoted)


def _fill(template: str, words: str) -> str:
    return template.replace("[CLS]", words)

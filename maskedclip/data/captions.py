"""Captions of a sample, composed when it is loaded and so drawn anew at every visit.

A category is worded by its name or by one of its expert descriptions, as in FLAIR. A sample that
came with text of its own keeps to that text unless asked otherwise.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from maskedclip.data.expert_dictionary import EXPERT, KEYWORDS, NOT_DIAGNOSTIC

TEMPLATE = "A fundus photograph of [CLS]"
_KEYS = {key.lower(): key for key in EXPERT}


class Drawn(NamedTuple):
    """A caption, and what it says: two samples that say the same are a positive pair."""

    text: str
    subject: str


def keywords_of(text: str) -> list[str]:
    """Return the findings of a keyword string as the dataset words them, without repeats.

    Both the full-width and the plain comma separate; remarks on the picture alone are left out.
    """
    parts = (" ".join(part.lower().split()) for part in re.split("[\N{FULLWIDTH COMMA},]", text))
    return list(dict.fromkeys(part for part in parts if part and part not in NOT_DIAGNOSTIC))


def categories_of(text: str) -> list[str]:
    """Return the findings of a keyword string: keys of EXPERT, own words where there is no key."""
    words = (KEYWORDS.get(word, word) for word in keywords_of(text))
    return list(dict.fromkeys(_KEYS.get(word.lower(), word) for word in words))


def prompts(category: str, template: str = TEMPLATE) -> list[str]:
    """Return the captions of one category: by its name first, then by each description."""
    return [_fill(template, words) for words in (category, *EXPERT.get(category, ()))]


def captions(
    categories: Sequence[str],
    report: str | None,
    template: str = TEMPLATE,
    prefer: str = "report",
) -> list[str]:
    """Return every caption a sample can get, none where it has neither category nor report.

    Args:
        prefer: "report" uses the report alone where there is one (FLAIR's rule for ODIR-5K),
            "categories" the categories alone where there are any, "both" all.
    """
    choices = _choices(categories, report, template, prefer)
    return list(dict.fromkeys(text for _, texts in choices for text in texts))


def caption(
    categories: Sequence[str],
    report: str | None,
    template: str = TEMPLATE,
    prefer: str = "report",
    *,
    draw: float,
) -> str:
    """Return the text of `draw_caption`."""
    return draw_caption(categories, report, template, prefer, draw=draw).text


def draw_caption(
    categories: Sequence[str],
    report: str | None,
    template: str = TEMPLATE,
    prefer: str = "report",
    *,
    draw: float,
) -> Drawn:
    """Return one caption: uniform over the subjects, then over the wordings of that subject.

    Args:
        draw: a number in [0, 1), which alone decides.

    Raises ValueError where the sample has neither category nor report.
    """
    choices = _choices(categories, report, template, prefer)
    if not choices:
        raise ValueError("no category and no report, so no caption; use the sample unpaired")
    which, rest = divmod(draw * len(choices), 1)
    subject, texts = choices[int(which)]
    return Drawn(texts[int(rest * len(texts))], subject)


def _choices(
    categories: Sequence[str], report: str | None, template: str, prefer: str
) -> list[tuple[str, list[str]]]:
    """Return (subject, its wordings); a report is quoted even where it reads like a category."""
    if prefer not in ("report", "categories", "both"):
        raise ValueError(f"prefer is {prefer!r}; use 'report', 'categories' or 'both'")
    if "[CLS]" not in template:
        raise ValueError(f"caption template {template!r} has no [CLS]; put it where the words go")
    named = [(category, prompts(category, template)) for category in categories]
    quoted = [(report, [_fill(template, report)])] if report else []
    if prefer == "both":
        return quoted + named
    return (quoted or named) if prefer == "report" else (named or quoted)


def _fill(template: str, words: str) -> str:
    return template.replace("[CLS]", words)

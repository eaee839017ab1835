"""A network that was trained on images cut in one way, and is tested on images cut in another."""

from types import SimpleNamespace
from typing import Any

import pytest

from maskedclip.evaluate.transfer import framing_note

SETTINGS = {"size": 512, "quality": 95}
CUT = {"settings": SETTINGS}
WHOLE = {"settings": SETTINGS, "field": "whole"}
THEIRS: dict[str, Any] = {}  # tars of others state no settings
ROUND, ALL = dict(SETTINGS), SETTINGS | {"whole": 1}


@pytest.mark.parametrize(
    ("trained", "manifest", "words"),
    [
        (ALL, CUT, "its images are cut to the field of view, those of training whole"),
        (ROUND, WHOLE, "its images are whole, those of training cut to the field of view"),
        (None, CUT, "cut to the field of view, those of training as others made them, cut or not"),
        (ALL, THEIRS, "as others made them, cut or not, those of training whole"),
        (ROUND, CUT, ""),
        (ROUND, {"settings": SETTINGS | {"size": 256}}, ""),
        (ALL, WHOLE, ""),
        (None, THEIRS, ""),
    ],
)
def test_images_that_are_cut_otherwise_are_said(trained: Any, manifest: Any, words: str) -> None:
    note = framing_note({"photographs": trained}, SimpleNamespace(manifest=manifest))
    assert words in note
    assert bool(note) == bool(words)


def test_nothing_is_said_where_the_weights_do_not_say_how_theirs_were_cut() -> None:
    assert framing_note({}, SimpleNamespace(manifest=CUT)) == ""

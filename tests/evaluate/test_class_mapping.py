"""Classes of two datasets are one where their names, meanings or places on a scale say so."""

import pytest

from maskedclip.evaluate.class_mapping import map_classes, shifted_grades, without_other_diseases

GRADES = ("none", "mild", "moderate", "severe", "proliferative")
NAMED = ("normal", "glaucoma", "drusen")
CHINESE = ("\u6b63\u5e38", "\u767d\u5185\u969c")  # normal, cataract
NPDR = ("No DR", "Mild NPDR", "Moderate NPDR", "Severe NPDR", "PDR")


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (("a", "b", "c"), ("b", "a", "d"), {"a": "a", "b": "b"}),
        (("Normal", "dry AMD"), ("NORMAL", "dry_amd"), {"NORMAL": "Normal", "dry_amd": "dry AMD"}),
        (("0", "1", "2"), ("0.0", "01", "3"), {"0.0": "0", "01": "1"}),
        (GRADES, NPDR, dict(zip(NPDR, GRADES, strict=True))),
        (NPDR, ("mild", "severe", "none"), {"none": "No DR", "mild": "Mild NPDR",
                                            "severe": "Severe NPDR"}),
        (("normal", "glaucoma"), ("Healthy", "Glaucoma"), {"Healthy": "normal",
                                                           "Glaucoma": "glaucoma"}),
    ],
)  # fmt: skip
def test_names_spellings_and_grades_of_one_scale_are_matched(
    ours: tuple[str, ...], theirs: tuple[str, ...], pairs: dict[str, str]
) -> None:
    assert map_classes(ours, theirs).pairs == pairs


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("mild DR", "severe DR"), ("mild AMD", "severe AMD")),  # of another disease
        (("0", "1", "2", "3", "4"), GRADES),  # 0 may be the best or the worst
        (("glaucoma", "cataract"), ("drusen", "myopia")),
        (("Ill", "ILL", "well"), ("ill", "fine")),  # which of the two?
        (("normal", "no glaucoma"), ("no DR", "no AMD")),
    ],
)
def test_what_is_not_surely_the_same_is_not_matched(
    ours: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    assert map_classes(ours, theirs).pairs == {}


def test_a_grade_is_matched_with_the_words_that_its_task_gives_it() -> None:
    meanings = ("no diabetic retinopathy", "mild diabetic retinopathy")
    mapping = map_classes(("0", "1"), ("mild diabetic retinopathy", "drusen"), meanings)
    assert mapping.pairs == {"mild diabetic retinopathy": "1"}
    assert (mapping.theirs, mapping.ours) == (("drusen",), ("0",))
    assert mapping.renamed == {"mild diabetic retinopathy": "1"}
    whole = map_classes(("0", "1"), ("mild NPDR", "normal"), meanings)  # all of one scale
    assert whole.pairs == {"normal": "0", "mild NPDR": "1"}


@pytest.mark.parametrize(
    ("tasks", "classes", "pairs", "on_trust"),
    [
        (("glaucoma", "dr"), ("no", "yes"), ("no",), ()),
        (("dr", "amd"), ("normal", "mild", "severe"), ("normal",), ()),
        (("dr", "amd_grade"), ("0", "1", "2"), (), ()),
        (("dr", "label"), ("normal", "mild", "severe"), ("normal", "mild", "severe"),
         ("mild", "severe")),
        (("grade", "label"), ("0", "1"), ("0", "1"), ("0", "1")),
        (("dr", "diabetic_retinopathy"), ("0", "1"), ("0", "1"), ()),
        (("dr", "dr"), ("0", "1"), ("0", "1"), ()),
        (("disease", "label"), NAMED, NAMED, ()),
        (("dr", "amd"), ("mild DR", "no DR"), ("mild DR", "no DR"), ()),
        (("label", "klasse"), CHINESE, CHINESE, ()),
    ],
)  # fmt: skip
def test_words_that_do_not_say_of_what_are_no_pairs_of_two_diseases_and_on_trust_of_unknown_ones(
    tasks: tuple[str, str],
    classes: tuple[str, ...],
    pairs: tuple[str, ...],
    on_trust: tuple[str, ...],
) -> None:
    mapping, trusted = without_other_diseases(map_classes(classes, classes), *tasks)
    assert tuple(mapping.pairs) == pairs
    assert trusted == on_trust
    assert set(mapping.theirs) == set(mapping.ours) == set(classes) - set(pairs)


@pytest.mark.parametrize(
    ("ours", "theirs", "shifted"),
    [
        ("12345", "01234", True),
        ("01234", "01234", False),
        ("01234", "0123", False),
        ("01234", "234", False),
        ("01", "12", False),  # absent and present are often 0, 1 or 1, 2
    ],
)
def test_grades_that_begin_at_another_number_are_seen(
    ours: str, theirs: str, shifted: bool
) -> None:
    assert shifted_grades(tuple(ours), tuple(theirs)) is shifted


def test_pairs_stand_in_the_order_of_the_network() -> None:
    mapping = map_classes(("c", "a", "b"), ("a", "b", "c"))
    assert list(mapping.pairs.values()) == ["c", "a", "b"]

import pytest

from maskedclip.data.class_names import class_names


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["0", "0.0", "00", "1.0", "1", "1e0"], ["0", "0", "0", "1", "1", "1"]),
        (["0.0", "1.0"], ["0", "1"]),
        (["01", "02"], ["01", "02"]),
        (["0.5", "0.50", ".5"], ["0.5", "0.5", "0.5"]),
        (["Normal", "normal", "NORMAL", "normal"], ["normal"] * 4),
        (["Normal", "NORMAL", "NORMAL"], ["NORMAL"] * 3),
        (["No DR", "No DR", "no_dr", "no-DR"], ["No DR"] * 4),
        (["A", "A-", "A+", "-1", "1"], ["A", "A-", "A+", "-1", "1"]),
        (["nan", "NA", "N/A", "None", "null", "?", "-", "", "1"], [""] * 8 + ["1"]),
    ],
)  # fmt: skip
def test_a_class_is_one_however_it_is_spelt(cells: list[str], classes: list[str]) -> None:
    assert [class_names(cells).class_of[cell] for cell in cells] == classes


def test_what_is_joined_and_what_states_nothing_is_named_with_its_count() -> None:
    found = class_names(["Normal", "normal", "normal", "nan", "nan", "?", ""])
    assert found.joined == ["normal: also written Normal"]
    assert found.missing == ["?: 1 cells", "nan: 2 cells"]
    assert found.grades == []


def test_none_is_a_grade_only_beside_grades_that_lack_a_lowest() -> None:
    graded = class_names(["none", "mild", "severe"])
    assert graded.class_of["none"] == "none"
    assert graded.grades == ["none: 1 cells"]
    assert class_names(["None", "No DR", "mild"]).class_of["None"] == ""
    assert class_names(["None", "cataract"]).class_of["None"] == ""

import pytest

from maskedclip.data.cell_values import is_missing, patient_of, whole_number


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "NaN", "NA", "n/a", "#N/A", "None", "NULL", "<NA>", "?", "-", "[]"]
)
def test_a_cell_that_states_nothing_is_no_value_and_no_patient(text: str) -> None:
    assert is_missing(text)
    assert patient_of(text) is None


def test_unknown_and_anonymous_are_nobody_but_may_be_values() -> None:
    assert [patient_of(text) for text in ("unknown", "Unknown", "UNK", "anonymous")] == [None] * 4
    spelled = ("no_id", "Not-Known", "unknown_patient", "[redacted]", "-1")
    assert [patient_of(text) for text in spelled] == [None] * 5
    assert not is_missing("unknown")
    assert [patient_of(text) for text in ("0", "Nan Li", "p-1")] == ["0", "Nan Li", "p-1"]
    assert patient_of(None) is None


def test_a_whole_number_is_written_without_its_fraction() -> None:
    assert [whole_number(text) for text in ("2.0", "2,00", "-1.0", "007")] == [
        "2",
        "2",
        "-1",
        "007",
    ]
    assert [whole_number(text) for text in ("2.5", "v2.0", "")] == ["2.5", "v2.0", ""]

"""Patients and eyes in file names: which forms are read, and which names must not invent any."""

from collections import defaultdict
from pathlib import Path

import pytest

from maskedclip.shards.downloads.patient_names import by_pattern, recognised, with_patients
from maskedclip.shards.downloads.records import Record, Sources
from maskedclip.shards.make import ShardRequest
from maskedclip.shards.make_command import main, remark_lines
from tests.downloads.drawing import draw

NUMBERS = range(1, 31)


def grouped(names: list[str], *, classes: bool = False) -> set[frozenset[str]]:
    """Return the names of each patient."""
    patients: defaultdict[str, set[str]] = defaultdict(set)
    for name, named in recognised(names, classes).items():
        patients[named.patient].add(name)
    return {frozenset(own) for own in patients.values()}


@pytest.mark.parametrize("words", [("L", "R"), ("OS", "OD"), ("left", "right"), ("le", "re")])
@pytest.mark.parametrize(
    "form",
    [
        "Patient{n:03d}_{s}", "{n}_{s}", "{n:03d}-{s}", "{s}_{n:04d}", "RET{n:03d}{s}", "{n}_{s}1",
        "{n:03d}_20190304_{s}", "{n:03d}_{s}_2019-03-04", "20190304_{n:04d}_{s}", "{n:03d}_V2_{s}",
        "{n:03d}_visit_2_{s}", "IMG_{n:03d}_{s}_2", "P{n}_fundus_{s}", "{n:03d} ({s})",
        "{s}{n:03d}", "{n:03d}_200102_{s}", "{n:03d}_20200102_103059_{s}", "{n:03d}_01-02-2020_{s}",
    ],
)  # fmt: skip
def test_two_eyes_are_one_patient(form: str, words: tuple[str, str]) -> None:
    pairs = [[form.format(n=n, s=word) + ".jpg" for word in words] for n in NUMBERS]
    names = [name for pair in pairs for name in pair]
    assert grouped(names) == {frozenset(pair) for pair in pairs}
    assert grouped([name.upper() for name in names]) == {
        frozenset(name.upper() for name in pair) for pair in pairs
    }
    eyes = recognised(names, False)
    assert [eyes[name].eye for name in pairs[0]] == ["L", "R"]


@pytest.mark.parametrize(
    "form",
    [
        "{n}_{s}_{v}",  # GRAPE
        "{n:03d}_{v}_{s}",  # the visit before the eye
        "P{n:03d}V{v}{s}",
        "P{n:03d}{s}{v}",
        "{n:04d}_2020010{v}_{s}",
        "{n}/{n}_{s}{v}",  # DeepDRiD
        "{n:03d}/{s}_{v}",  # a folder a patient
        "{n} {v:02d} F2 {s} LS",  # AREDS: patient, visit, field, eye
        "{n}_eidon_mosaic_cfp_{s}_1.2.826.{v}",  # AI-READI
        "sub-{n:02d}/ses-{v}/sub-{n:02d}_ses-{v}_{s}",
    ],
)
def test_all_visits_and_photographs_are_of_the_patient(form: str) -> None:
    of_patients = [
        [form.format(n=n, s=s, v=v) + ".jpg" for s in ("OS", "OD") for v in (1, 2, 3)]
        for n in NUMBERS
    ]
    names = [name for own in of_patients for name in own]
    assert grouped(names) == {frozenset(own) for own in of_patients}


def test_a_site_before_the_number_is_a_part_of_the_patient() -> None:
    names = [f"{n % 3:02d}_{n:04d}_{s}.jpg" for n in NUMBERS for s in "LR"]
    assert len(grouped(names)) == len(NUMBERS)


@pytest.mark.parametrize("word", ["patient_{n}", "Subject{n:03d}", "pid {n}", "pat-{n}"])
def test_a_word_with_a_number_is_a_patient_without_any_eye(word: str) -> None:
    of_file = [[f"{word.format(n=n)}_{v}.jpg" for v in (1, 2)] for n in NUMBERS]
    of_folder = [[f"{word.format(n=n)}/{v}.jpg" for v in (1, 2)] for n in NUMBERS]
    for pairs in (of_file, of_folder):
        assert grouped([name for pair in pairs for name in pair]) == {*map(frozenset, pairs)}


@pytest.mark.parametrize(
    "names",
    [
        [f"normal_{n:03d}.jpg" for n in NUMBERS] + [f"{n:03d}_dr.jpg" for n in NUMBERS],
        [f"{n:03d}_{'lr'[n % 2]}.jpg" for n in NUMBERS],  # no number has both
        [f"{n:03d}_{s}.jpg" for n in NUMBERS for s in "rgb"],
        [f"{n:03d}_{s}.jpg" for n in NUMBERS for s in "abcdefghijklmnopqr"],
        [f"{n:03d}_od.jpg" for n in NUMBERS],  # optic discs
        [f"r{release}_Im{n:03d}.jpg" for n in NUMBERS for release in (1, 2)],  # RIM-ONE
        [f"20051020_{43800 + n}_0100_PP.png" for n in NUMBERS],  # Messidor-2
        ["cell.jpg", "pupil.jpg", "color.jpg", "vessel_l.jpg", "vessel_r.jpg", "macular.jpg"],
        [f"pattern_{n}.jpg" for n in NUMBERS],
        [f"NL_{n:03d}.png" for n in NUMBERS] + [f"Glaucoma_{n:03d}.png" for n in NUMBERS],
        [f"unknown_{s}_{n}.jpg" for n in NUMBERS for s in ("OD", "OS")],
        [f"patients 2020/{n}.jpg" for n in NUMBERS],
    ],
    ids=lambda names: names[0],
)
def test_other_names_invent_no_patient(names: list[str]) -> None:
    assert recognised(names, False) == {}


def test_an_ending_that_names_the_class_is_no_eye() -> None:
    names = [f"{c}/{n:03d}_{s}.jpg" for n in NUMBERS for c, s in (("healthy", "l"), ("ill", "r"))]
    assert recognised(names, True) == {}
    mixed = [f"{('healthy', 'ill')[n % 2]}/{n:03d}_{s}.jpg" for n in NUMBERS for s in "lr"]
    assert len(grouped(mixed, classes=True)) == len(NUMBERS)


def test_where_each_class_counts_from_one_the_same_number_is_another_patient() -> None:
    names = [f"{c}/{n:03d}_{s}.jpg" for c in ("dr", "no") for n in NUMBERS for s in "LR"]
    assert len(grouped(names, classes=True)) == 2 * len(NUMBERS)


def test_names_of_other_images_stay_without_a_patient() -> None:
    names = [f"{n}_{s}.jpg" for n in NUMBERS for s in ("left", "right")] + ["a.jpg", "10l9.jpg"]
    assert recognised(names, False).keys() == {*names[:-2]}


@pytest.mark.parametrize(
    "before",
    [
        "Copy of ", "copy_of_", "Copy (2) of ", "Copy of Copy of ", "Kopie von ", "Kopie (3) von ",
        "Copie de ", "Copia de ", "Copia di ", "C\u00f3pia de ", "Co\u0301pia de ", "CopyOf",
    ],
)  # fmt: skip
def test_the_words_of_a_copy_are_no_part_of_the_patient(before: str) -> None:
    names = [f"{n:04d}_{s}.jpg" for n in NUMBERS for s in ("OD", "OS")]
    copies = {f"{before}0012_OD.jpg", f"{before}0013_OS.jpg"}
    found = recognised([*names, *copies], False)
    assert {(found[name].patient, found[name].eye) for name in copies} == {
        ("0012", "R"), ("0013", "L")
    }  # fmt: skip
    assert len(grouped([*names, *copies])) == len(NUMBERS)
    assert {named.patient for named in by_pattern(copies, r"(.+)_O[DS]").values()} == {
        "0012", "0013"
    }  # fmt: skip


def test_words_of_a_copy_before_a_folder_and_before_words_of_patients_are_dropped() -> None:
    files = [f"{folder}/{s}_1.jpg" for folder in ("01", "02", "Copy of 02") for s in ("OD", "OS")]
    assert grouped(files) == {frozenset(files[:2]), frozenset(files[2:])}
    words = ["patient_1.jpg", "patient_2.jpg", "Copy of patient_2.jpg"]
    assert grouped(words) == {frozenset(words[:1]), frozenset(words[1:])}


def test_a_name_that_only_begins_like_a_copy_keeps_its_words() -> None:
    names = [f"{site}{n}_{s}.jpg" for site in ("copyof_a", "copia") for n in (1, 2) for s in "LR"]
    assert {named.patient for named in recognised(names, False).values()} >= {"copia1", "copia2"}


def test_patients_that_differ_in_leading_zeros_are_counted_and_kept_apart() -> None:
    names = [f"{n:04d}_{s}.jpg" for n in NUMBERS for s in ("OD", "OS")]
    found = with_patients(sources([*names, "12_OD_visit2.png", "7_OS_visit2.png"]), "", False)
    assert len({record.patient for record in found.records}) == len(NUMBERS) + 2
    assert found.remarks["patients_that_differ_in_zeros"] == [
        "4 patients of 32 differ from another in leading zeros alone, such as 0007 (0007_OS.jpg) "
        "and 7 (7_OS_visit2.png)"
    ]
    joined = with_patients(found._replace(records=sources(names).records, remarks={}), "", False)
    assert "patients_that_differ_in_zeros" not in joined.remarks
    (line,) = [line for line in remark_lines(found.remarks) if "leading zeros" in line]
    assert "kept apart; check_shards" in line
    assert "--patient_pattern='0*(\\d+)_...'" in line
    one = with_patients(sources([*names, "12_OD_visit2.png"]), r"0*(\d+)_O[DS]", False)
    assert len({record.patient for record in one.records}) == len(NUMBERS)


def sources(names: list[str], **facts: str) -> Sources:
    return Sources([Record(name, Path(name), **facts) for name in names], {})


def test_a_pattern_gives_the_patient_and_the_eye_and_counts_who_has_none() -> None:
    names = ["x/A7-q1-OD.png", "x/a7-q2-OS.png", "x/B1-q1-OD.png", "x/unknown-q1-OD.png", "x/z.png"]
    found = with_patients(sources(names), r"(?P<patient>\w+)-q\d-(?P<eye>O[DS])", False)
    assert [(r.patient, r.eye) for r in found.records] == [
        ("A7", "R"), ("A7", "L"), ("B1", "R"), (None, None), (None, None)
    ]  # fmt: skip
    assert found.remarks["patients_from_names"] == [
        "2 patients of 3 of 5 images (2 name none), such as A7-q1-OD.png -> A7"
    ]
    assert by_pattern(names, "/(x)/")["x/z.png"].patient == "x"


def test_what_a_dataset_states_is_not_read_from_names() -> None:
    names = [f"{n}_{s}.jpg" for n in NUMBERS for s in "LR"]
    assert with_patients(sources(names, patient="p"), "", False) == sources(names, patient="p")
    assert with_patients(sources(names), "none", False) == sources(names)
    with pytest.raises(ValueError, match="the dataset states its patients"):
        with_patients(sources(names, patient="p"), r"(\d+)_", False)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"--patient_pattern \(: is no regular expression"),
        (r"\d+_[LR]", "has no group; put the part of the patient in parentheses"),
    ],
)
def test_a_pattern_without_sense_is_refused_before_anything_is_read(
    pattern: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ShardRequest(dataset="folder", root=Path("nowhere"), patient_pattern=pattern)


def test_a_tree_says_its_patients_and_how_many_stand_in_two_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {1: "train/a", 2: "train/b", 3: "test/a", 4: "test/b"}
    names = [f"{place}/P{n}_{s}.png" for n, place in places.items() for s in ("OD", "OS")]
    draw(tmp_path / "tree", *names, "train/a/P3_OD_2.png", "test/b/other.png")
    words = ["folder", f"--root={tmp_path / 'tree'}", "--classes=dr", "--workers=1", "--size=64"]
    main([*words, f"--out={tmp_path / 'own'}", "--name=own"])
    printed = capsys.readouterr().out
    assert (
        "patients read from file names: 4 patients of 9 of 10 images (1 name none), such as "
        "P3_OD.png -> P3; --patient_pattern=... to change, --patient_pattern=none to refuse\n"
    ) in printed
    assert "WARNING: 1 of 4 patients stand in more than one split" in printed
    assert "patients: 4, known of 9 of 10 samples\n" in printed
    main([*words, f"--out={tmp_path / 'none'}", "--patient_pattern=none"])
    assert "patients unknown: splits and intervals will draw images" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, f"--out={tmp_path / 'bad'}", "--patient_pattern=(zz)"])
    error = capsys.readouterr().err
    assert "fits none of 10 file names, such as test/a/P3_OD.png" in error
    assert not (tmp_path / "bad").exists()

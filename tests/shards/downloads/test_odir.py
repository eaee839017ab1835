from collections import Counter
from pathlib import Path

import pytest

from maskedclip.data.captions import categories_of
from maskedclip.data.label_kinds import labels_in
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.label_files import rows_of
from maskedclip.shards.downloads.odir import labels_of, read_odir
from tests.downloads.drawing import book, draw, table
from tests.real_data import real

HEADING = [
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
    "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", "N", "D",
]  # fmt: skip


ROWS = [
    HEADING,
    ["0", "69", "Female", "0_left.jpg", "0_right.jpg", "cataract", "normal fundus", "0", "0"],
    ["2", "42", "Male", "2_left.jpg", "2_right.jpg",
     "laser spot\uff0cmoderate non proliferative retinopathy", "lens dust", "0", "1"],
    ["4", "50", "Male", "4_left.jpg", "4_right.jpg",
     "drusen,glaucoma", "suspected glaucoma", "0", "1"],
]  # fmt: skip


def odir(root: Path) -> Path:
    eyes = [f"preprocessed_images/{n}_{eye}.jpg" for n in (0, 2) for eye in ("left", "right")]
    draw(root, *eyes, "preprocessed_images/4_left.jpg", "Training Images/4_left.jpg")
    draw(root, "Testing Images/9_left.jpg")
    return root


def test_an_eye_of_odir_is_told_by_its_own_keywords(tmp_path: Path) -> None:
    table(odir(tmp_path), "full_df.csv", *ROWS)
    coded = [[*row[:5], "D", "G"] for row in ROWS[1:]]
    book(tmp_path, "data.xlsx", Sheet1=[HEADING[:7], *coded])
    found = read_odir(read_card("odir5k"), tmp_path)
    eyes = {Path(record.source).stem: record for record in found.records}
    left, right = eyes["0_left"], eyes["0_right"]
    assert (left.patient, left.eye, left.split, left.report) == ("0", "L", "train", "cataract")
    assert (right.eye, right.report, right.categories) == ("R", "normal fundus", ("normal",))
    assert right.labels == {"disease": "normal", "diseases": "normal"}
    assert eyes["2_left"].categories == ("laser scar", "moderate diabetic retinopathy")
    assert eyes["2_left"].report == "laser spot, moderate non proliferative retinopathy"
    # the findings are not all of one class
    assert eyes["2_left"].labels == {"diseases": "diabetic retinopathy|other"}
    assert eyes["2_right"].labels == {}  # dust on a lens says nothing of the eye
    assert eyes["4_left"].labels == {"diseases": "glaucoma|other"}
    assert found.kinds == {"diseases": "labels"}
    assert (eyes["2_right"].categories, eyes["2_right"].report) == ((), None)
    assert eyes["4_left"].source == "Training Images/4_left.jpg"
    assert (eyes["9_left"].split, eyes["9_left"].patient) == ("test", "9")
    assert found.remarks == {
        "labels_without_image": ["4_right"],
        "repeated_names": ["preprocessed_images/4_left.jpg"],
        "images_without_label": ["Testing Images/9_left.jpg"],
        "eyes_without_finding": ["preprocessed_images/2_right.jpg"],
    }


def test_a_suspicion_counts_and_normal_beside_a_finding_does_not(tmp_path: Path) -> None:
    rows = [
        HEADING,
        ["0", "69", "Female", "0_left.jpg", "0_right.jpg",
         "suspected glaucoma", "epiretinal membrane\uff0cnormal fundus\uff0clens dust", "0", "0"],
    ]  # fmt: skip
    table(odir(tmp_path), "full_df.csv", *rows)
    eyes = {Path(r.source).stem: r.labels for r in read_odir(read_card("odir5k"), tmp_path).records}
    assert eyes["0_left"] == {"diseases": "glaucoma"}
    assert eyes["0_right"] == {"diseases": "other"}


def test_an_eye_of_odir_whose_rows_disagree_is_left_out_by_name(tmp_path: Path) -> None:
    other = [*ROWS[1][:5], "drusen", *ROWS[1][6:]]
    table(odir(tmp_path), "full_df.csv", *ROWS, other, ROWS[2])
    found = read_odir(read_card("odir5k"), tmp_path)
    assert found.remarks["images_with_two_rows"] == ["preprocessed_images/0_left.jpg"]
    assert "preprocessed_images/0_left.jpg" not in {record.source for record in found.records}
    assert len(found.records) == 5


def test_odir_is_read_from_its_xlsx_too(tmp_path: Path) -> None:
    table(tmp_path / "one", "full_df.csv", *ROWS)
    book(tmp_path / "two", "ODIR-5K_Training_Annotations (Updated)_V2.xlsx", Sheet1=ROWS)
    one, two = (read_odir(read_card("odir5k"), odir(tmp_path / name)) for name in ("one", "two"))
    assert [r._replace(path=Path()) for r in one.records] == [
        r._replace(path=Path()) for r in two.records
    ]


def test_the_test_sets_of_oia_odir_are_splits(tmp_path: Path) -> None:
    draw(tmp_path, "Off-site Test Set/Images/0_left.jpg", "On-site_Test_Set/Images/2_left.jpg")
    draw(tmp_path, "Training Set/Images/4_left.jpg")
    book(tmp_path, "Training Set/Annotation/training annotation (English).xlsx", Sheet1=ROWS)
    splits = [record.split for record in read_odir(read_card("odir5k"), tmp_path).records]
    assert splits == ["off-site test", "on-site test", "train"]


def test_letters_in_place_of_keywords_are_refused(tmp_path: Path) -> None:
    coded = [[*row[:5], "D\uff0cH", "N"] for row in ROWS[1:]]
    book(odir(tmp_path), "data.xlsx", Sheet1=[HEADING[:7], *coded])
    with pytest.raises(ValueError, match="only letter codes for keywords"):
        read_odir(read_card("odir5k"), tmp_path)


def test_the_odir_photographs_have_their_own_findings() -> None:
    found = read_odir(read_card("odir5k"), real("odir5k"))
    eyes = {Path(record.source).stem: record for record in found.records}
    assert len(eyes) == 6113
    assert eyes["0_left"].categories == ("cataract",)
    assert eyes["0_right"].report == "normal fundus"
    assert len({record.patient for record in found.records}) == 3198
    assert Counter(r.labels.get("disease") for r in found.records)["normal"] == 2786
    assert len(found.remarks["labels_without_image"]) == 603
    several = Counter(
        label for r in found.records for label in labels_in(r.labels.get("diseases", ""))
    )
    assert several["normal"] == 2786
    assert sum("diseases" not in record.labels for record in found.records) == 0


def test_the_labels_of_both_eyes_are_the_flags_of_every_patient() -> None:
    card = read_card("odir5k")
    rows, _ = rows_of(real("odir5k") / "full_df.csv")
    names = dict(zip(dict.fromkeys(card.labels["diseases"].values()), "ndgcahmo", strict=True))
    patients = {row["id"]: row for row in rows}
    for row in patients.values():
        found = set()
        for side in ("left", "right"):
            findings = categories_of(row[f"{side}-diagnostic keywords"])
            if findings:
                found |= {names[name] for name in labels_in(labels_of(card, "diseases", findings))}
        assert (found - {"n"} or found) == {flag for flag in "ndgcahmo" if row[flag] == "1"}
    assert len(patients) == 3358

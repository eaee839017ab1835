"""Miniatures of DeepDRiD: paths with back-slashes, and an eye that its name does not tell."""

from pathlib import Path

from tests.downloads.drawing import book, cut_short, draw, empty, table
from tests.downloads.expected import Expected, Facts, expected
from tests.downloads.grading import graded

HEADING = [
    "patient_id", "image_id", "image_path", "Overall quality", "left_eye_DR_Level",
    "right_eye_DR_Level", "patient_DR_Level", "Clarity", "Field definition", "Artifact",
]  # fmt: skip
TRAIN, VAL = "regular-fundus-training", "regular-fundus-validation"
ONLINE = "Online-Challenge1&2-Evaluation"
WIDE = "DeepDRiD-master/ultra-widefield_images/ultra-widefield-training"


def _known(patient: str, split: str, grade: str, eye: str, quality: str) -> Facts:
    return graded(grade, patient=patient, eye=eye, split=split, overall_quality=quality)


SAMPLES = {
    f"{TRAIN}/Images/1/1_l1.jpg": _known("1", "train", "0", "L", "0"),
    f"{TRAIN}/Images/1/1_r1.jpg": _known("1", "train", "2", "R", "1"),
    f"{TRAIN}/Images/56/56_l1.jpg": _known("56", "train", "3", "L", "1"),
    f"{TRAIN}/Images/56/56_r3.jpg": _known("56", "train", "3", "L", "1"),
    f"{TRAIN}/Images/56/56_l3.jpg": _known("56", "train", "4", "R", "0"),
    f"{TRAIN}/Images/56/56_r2.jpg": _known("56", "train", "4", "R", "1"),
    f"{VAL}/Images/265/265_l1.jpg": _known("265", "val", "1", "L", "1"),
    f"{VAL}/Images/265/265_r2.jpg": _known("265", "val", "0", "R", "1"),
    f"{VAL}/Images/266/266_l1.jpg": Facts("266", None, "val"),
    f"{ONLINE}/Images/347/347_l1.jpg": graded("2", patient="347", split="test"),
    f"{ONLINE}/Images/347/347_r1.jpg": graded("4", patient="347", split="test"),
}


def clone(root: Path) -> Expected:
    """The whole clone; the ultra-widefield images repeat names of the regular ones."""
    top = "DeepDRiD-master/regular_fundus_images/"
    found = _regular(root, top)
    labels = [["image_id", "DR_Levels"], ["347_l1", 2], ["347_r1", 4]]
    book(root, f"{top}{ONLINE}/Challenge1_labels.xlsx", Sheet1=labels)
    ignored = [f"{WIDE}/Images/1/1_{name}.jpg" for name in ("l1", "r1")]
    draw(root, *ignored)
    rows = [
        [1, "1_l1", "ultra-widefield-training\\1\\1_l1.jpg", 5, "left_eye"],
        [1, "1_r1", "ultra-widefield-training\\1\\1_r1.jpg", 3, "right_eye"],
    ]
    heading = ["patient_id", "image_id", "image_path", "DR_level", "position"]
    table(root, f"{WIDE}/ultra-widefield-training.csv", heading, *rows)
    return found._replace(ignored=ignored)


def regular(root: Path) -> Expected:
    """The folder of the regular images alone, the labels of the challenge turned into a CSV."""
    found = _regular(root, "")
    labels = [["image_id", "DR_Levels"], ["347_l1", 2], ["347_r1", 4]]
    table(root, f"{ONLINE}/Challenge1_labels.csv", *labels)
    return found


def _regular(root: Path, top: str) -> Expected:
    samples = {top + name: facts for name, facts in SAMPLES.items()}
    draw(root, *samples)
    broken = [cut_short(root, f"{top}{TRAIN}/Images/56/56_r2.jpg")]
    broken += [empty(root, f"{top}{VAL}/Images/265/265_r2.jpg")]
    absent = [2, "2_l1", f"\\{TRAIN}\\2\\2_l1.jpg", 1, 0, "", 0, 8, 8, 4]
    table(root, f"{top}{TRAIN}/{TRAIN}.csv", HEADING, *_rows(TRAIN), absent)
    table(root, f"{top}{VAL}/{VAL}.csv", HEADING, *_rows(VAL))
    template = [["347_l1", ""], ["347_r1", ""]]
    table(root, f"{top}{ONLINE}/Challenge1_upload.csv", ["image_id", "DR_Level"], *template)
    table(root, f"{top}{ONLINE}/Challenge2_upload.csv", ["image_id", "Overall quality"], *template)
    return expected(
        samples,
        labels_without_image=["2_l1"],
        images_without_label=[f"{top}{VAL}/Images/266/266_l1.jpg"],
        unreadable=broken,
    )


def _rows(part: str) -> list[list[str | int]]:
    rows = []
    for source, facts in SAMPLES.items():
        if source.startswith(part) and facts.labels:
            grade = facts.labels["diabetic_retinopathy"]
            path = f"\\{part}\\{facts.patient}\\{Path(source).name}"  # without the level Images
            levels = [grade, "", grade] if facts.eye == "L" else ["", grade, grade]
            quality = facts.labels["overall_quality"]
            rows.append([str(facts.patient), Path(source).stem, path, quality, *levels, 8, 8, 4])
    return rows

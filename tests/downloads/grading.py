"""Miniatures of the datasets with grades of diabetic retinopathy that have no file of their own."""

from pathlib import Path

from tests.downloads.drawing import book, cut_short, draw, empty, junk, table, write
from tests.downloads.expected import Expected, Facts, expected

TASK = "diabetic_retinopathy"
GRADES = {
    "0": "no diabetic retinopathy",
    "1": "mild diabetic retinopathy",
    "2": "moderate diabetic retinopathy",
    "3": "severe diabetic retinopathy",
    "4": "proliferative diabetic retinopathy",
}


def graded(
    grade: str,
    *more: str,
    patient: str | None = None,
    eye: str | None = None,
    split: str | None = None,
    **labels: str,
) -> Facts:
    """Return the facts of an image with a grade, further categories and further labels."""
    return Facts(patient, eye, split, {TASK: grade, **labels}, (GRADES[grade], *more))


def eyepacs(root: Path) -> Expected:
    """The files under their own names, the test grades of the forum beside them."""
    samples = {
        "train/10_left.jpeg": graded("0", patient="10", eye="L", split="train"),
        "train/10_right.jpeg": graded("1", patient="10", eye="R", split="train"),
        "train/13_left.jpeg": graded("2", patient="13", eye="L", split="train"),
        "train/13_right.jpeg": Facts(patient="13", eye="R"),
        "train/15_left.jpeg": graded("3", patient="15", eye="L", split="train"),
        "train/15_right.jpeg": graded("4", patient="15", eye="R", split="train"),
        "test/1_left.jpeg": graded("0", patient="1", eye="L", split="test"),
        "test/1_right.jpeg": graded("2", patient="1", eye="R", split="test"),
        "test/2_left.jpeg": graded("4", patient="2", eye="L", split="val"),
        "test/2_right.jpeg": graded("1", patient="2", eye="R", split="val"),
        "test/3_left.jpeg": Facts(patient="3", eye="L"),
    }
    draw(root, *samples)
    broken = [cut_short(root, "train/15_right.jpeg"), empty(root, "test/2_right.jpeg")]
    junk(root, "train", "10_left.jpeg")
    grades = [["10_left", 0], ["10_right", 1], ["13_left", 2], ["15_left", 3], ["15_right", 4]]
    table(root, "trainLabels.csv", ["image", "level"], *grades, ["16_left", 1])
    table(
        root,
        "retinopathy_solution.csv",
        ["image", "level", "Usage"],
        *(["1_left", 0, "Private"], ["1_right", 2, "Private"]),
        *(["2_left", 4, "Public"], ["2_right", 1, "Public"], ["4_left", 2, "Private"]),
        bom=True,
    )
    # all zeros, and for images that the solution does not grade: no labels
    table(root, "sampleSubmission.csv", ["image", "level"], ["1_left", 0], ["3_left", 0])
    return expected(
        samples,
        labels_without_image=["16_left", "4_left"],
        images_without_label=["test/3_left.jpeg", "train/13_right.jpeg"],
        unreadable=broken,
    )


def eyepacs_renamed(root: Path) -> Expected:
    """A copy with train.csv and test.csv, a doubled folder and endings in upper case."""
    samples = {
        "train/train/10_left.jpeg": graded("0", patient="10", eye="L", split="train"),
        "train/train/10_right.JPEG": graded("2", patient="10", eye="R", split="train"),
        "test/test/1_left.jpeg": graded("0", patient="1", eye="L", split="test"),
        "test/test/1_right.JPEG": graded("3", patient="1", eye="R", split="val"),
    }
    draw(root, *samples)
    table(root, "train.csv", ["image", "level"], ["10_left", 0], ["10_right", 2])
    rows = [["1_left", 0, "Private"], ["1_right", 3, "Public"]]
    table(root, "test.csv", ["image", "level", "Usage"], *rows)
    return expected(samples)


def eyepacs_resized(root: Path) -> Expected:
    """A reduced copy whose table has got two columns without a heading of its own."""
    samples = {
        "resized_train/resized_train/10_left.jpeg": graded(
            "0", patient="10", eye="L", split="train"
        ),
        "resized_train/resized_train/10_right.jpeg": graded(
            "4", patient="10", eye="R", split="train"
        ),
    }
    draw(root, *samples)
    rows = [[0, 0, "10_left", 0], [1, 1, "10_right", 4]]
    table(root, "trainLabels.csv", ["", "Unnamed: 0", "image", "level"], *rows)
    return expected(samples)


def paraguay(root: Path) -> Expected:
    """Seven folders whose names hold blanks, dots and parentheses."""
    top = "Dataset_from_fundus_images_for_the_study_of_diabetic_retinopathy_V02"
    stages = [
        ("1. No DR signs", "0"),
        ("2. Mild (or early) NPDR", "1"),
        ("3. Moderate NPDR", "2"),
        ("4. Severe NPDR", "3"),
        ("5. Very Severe NPDR", "3"),
        ("6. PDR", "4"),
        ("7. Advanced PDR", "4"),
    ]
    samples, rows = {}, []
    for number, (folder, grade) in enumerate(stages, start=1):
        for name in (number, 100 * number):
            stage = folder[3:]
            facts = graded(grade, diabetic_retinopathy_stage=stage)
            samples[f"{top}/{folder}/{name}.jpg"] = facts
            rows.append([name, ".jpg", stage])
    draw(root, *samples)
    broken = [cut_short(root, f"{top}/6. PDR/600.jpg"), empty(root, f"{top}/7. Advanced PDR/7.jpg")]
    junk(root, f"{top}/1. No DR signs", "1.jpg")
    name = f"{top}/Annotations of the classifications.xlsx"
    book(root, name, Sheet1=[["Image", "Format", "Status"], *rows])
    return expected(samples, unreadable=broken)


SUSTECH_HEADING = [
    "Fundus_images",
    "left_versus_right_eye(left_0_right_1)",
    "DR_grade(International_Clinical_DR_Severity_Scale)",
    "DR_grade(American_Academy_of_Ophthalmology)",
    "DR_grade(Scottish_DR_grading_protocol)",
]


def sustech_sysu(root: Path) -> Expected:
    """With the folder images/, the tables among the pictures."""
    return _sustech(root, "images/originalImages/", "images/originalImages/drLabels.csv", "images/")


def sustech_sysu_flat(root: Path) -> Expected:
    """Without it, the tables at the root and one of them misspelt."""
    return _sustech(root, "originalImages/", "drLables.csv", "")


def _sustech(root: Path, images: str, labels: str, above: str) -> Expected:
    samples = {
        f"{images}0001.jpg": graded("0", eye="L"),
        f"{images}0002.jpg": graded("2", eye="R"),
        f"{images}0010.jpg": graded("3", eye="L"),  # 5, that is laser scars, graded again
        f"{images}0011.jpg": Facts(eye="R"),  # 5, and not graded again
        f"{images}0012.jpg": graded("1", eye="L"),
        f"{images}0656.jpg": graded("4", eye="R"),
        f"{images}1219.jpg": Facts(),
    }
    draw(root, *samples)
    broken = [cut_short(root, f"{images}0656.jpg")]
    # the three scales differ; a row for 1218 has no image
    rows = [
        ["0001.jpg", 0, 1, 0, 2],
        ["0002.jpg", 1, 1, 2, 3],
        ["0010.jpg", 0, 5, 5, 5],
        ["0011.jpg", 1, 5, 5, 5],
        ["0012.jpg", 0, 2, 1, 0],
        ["0656.jpg", 1, 3, 4, 1],
        ["1218.jpg", 1, 3, 3, 3],
    ]
    table(root, labels, SUSTECH_HEADING, *rows)
    again = labels.rpartition("/")[0]
    again = f"{again}/c5_DR_reclassified.csv" if again else "c5_DR_reclassified.csv"
    table(root, again, [SUSTECH_HEADING[0], *SUSTECH_HEADING[2:]], ["0010.jpg", 2, 3, 4])
    for folder in ("exudatesLabels", "odFoveaLabels"):
        write(root, f"{above}{folder}/0656.xml", "<annotation></annotation>")
    write(root, "README.txt", "SUSTech-SYSU dataset")
    write(root, "LICENSE.txt", "CC BY 4.0")
    return expected(
        samples,
        labels_without_image=["1218"],
        images_without_label=[f"{images}1219.jpg"],
        unreadable=broken,
    )

"""Miniatures of MESSIDOR-2: pictures, pairs and grades that came from three hosts."""

from pathlib import Path

from tests.downloads.downstream import EDEMA, NO_EDEMA
from tests.downloads.drawing import cut_short, draw, table, write
from tests.downloads.expected import Expected, Facts, expected
from tests.downloads.grading import graded

MESSIDOR_HEADING = ["image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"]


def _messidor(grade: str, edema: str, patient: str | None = None, eye: str | None = None) -> Facts:
    more = EDEMA if edema == "1" else NO_EDEMA
    return graded(grade, more, patient=patient, eye=eye, referable_macular_edema=edema)


def messidor2(root: Path) -> Expected:
    """The pictures of ADCIS with the grades and the pairs; two of the four files are no grades."""
    one, two, three = "20051020_43808_0100_PP", "IM000012", "IM000014"
    samples = {
        f"IMAGES/{one}.png": _messidor("0", "0", one, "L"),
        "IMAGES/20051020_43832_0100_PP.png": _messidor("1", "0", one, "R"),
        f"IMAGES/{two}.JPG": _messidor("2", "1", two, "L"),
        "IMAGES/IM000013.JPG": _messidor("3", "0", two, "R"),
        f"IMAGES/{three}.JPG": _messidor("4", "1", three, "L"),
        "IMAGES/IM000015.JPG": Facts(three, "R"),  # not gradable
        "IMAGES/IM004832.JPG": Facts(),
    }
    draw(root, *samples)
    broken = [cut_short(root, "IMAGES/IM000014.JPG")]
    table(
        root,
        "messidor_data.csv",
        MESSIDOR_HEADING,
        *([f"{one}.png", 0, 0, 1], ["20051020_43832_0100_PP.png", 1, 0, 1]),
        *(["IM000012.jpg", 2, 1, 1], ["IM000013.jpg", 3, 0, 1], ["IM000014.jpg", 4, 1, 1]),
        *(["IM000015.jpg", "", "", 0], ["IM000099.jpg", 0, 0, 1]),
    )
    table(
        root,
        "messidor-2.csv",
        *(["left", "right"], [f"{one}.png", "20051020_43832_0100_PP.png"]),
        *(["IM000012.jpg", "IM000013.jpg"], ["IM000014.jpg", "IM000015.jpg"]),
        delimiter=";",
    )
    table(root, "trainLabels.csv", ["image", "level"], ["10_left", 0])  # EyePACS's
    write(root, "messidor_readme.txt", "Adjudicated grades")
    return expected(
        samples,
        labels_without_image=["IM000099"],
        images_without_label=["IMAGES/IM004832.JPG"],
        unreadable=broken,
    )


def messidor2_preprocessed(root: Path) -> Expected:
    """The cropped copy: another heading under the same name, PNG throughout."""
    samples = {
        "messidor-2/preprocess/20051020_43808_0100_PP.png": _messidor("0", "0"),
        "messidor-2/preprocess/20051020_44261_0100_PP.png": _messidor("4", "1"),
        "messidor-2/preprocess/IM000012.png": _messidor("2", "0"),
    }
    draw(root, *samples)
    table(
        root,
        "messidor_data.csv",
        ["id_code", "diagnosis", "adjudicated_dme", "adjudicated_gradable"],
        *(["20051020_43808_0100_PP.png", 0, 0, 1], ["20051020_44261_0100_PP.png", 4, 1, 1]),
        ["IM000012.jpg", 2, 0, 1],
    )
    return expected(samples)


def messidor2_gradable(root: Path) -> Expected:
    """A copy without the ungradable rows, whose blanks had turned the grades into floats."""
    samples = {
        "IMAGES/20051020_43808_0100_PP.png": _messidor("3", "1"),
        "IMAGES/IM000012.JPG": _messidor("0", "0"),
    }
    draw(root, *samples)
    rows = [["20051020_43808_0100_PP.png", "3.0", "1.0", 1], ["IM000012.jpg", "0.0", "0.0", 1]]
    table(root, "messidor_data.csv", MESSIDOR_HEADING, *rows)
    return expected(samples)

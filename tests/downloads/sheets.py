"""Miniatures of Drishti-GS1 and GRAPE, whose sheets have titles and headings of two rows."""

from pathlib import Path

from tests.downloads.drawing import book, cut_short, draw, empty, write
from tests.downloads.expected import Expected, Facts, expected
from tests.downloads.glaucoma import told


def drishti_gs(root: Path) -> Expected:
    """The sheet among the folders."""
    return _drishti(root, "Drishti-GS1_files", "Drishti-GS1_files")


def drishti_gs_nested(root: Path) -> Expected:
    """The folder within a folder of its name."""
    return _drishti(root, "Drishti-GS1_files/Drishti-GS1_files", "Drishti-GS1_files")


def drishti_gs_beside(root: Path) -> Expected:
    """The sheet beside the folder, at the root."""
    return _drishti(root, "Drishti-GS1_files", "")


def _drishti(root: Path, top: str, sheet: str) -> Expected:
    samples = {
        f"{top}/Training/Images/drishtiGS_002.png": told("glaucoma", "train"),
        f"{top}/Training/Images/drishtiGS_004.png": told("no glaucoma", "train"),
        f"{top}/Training/Images/drishtiGS_008.png": told("glaucoma", "train"),
        f"{top}/Test/Images/drishtiGS_001.png": told("no glaucoma", "test"),
        f"{top}/Test/Images/drishtiGS_003.png": told("glaucoma", "test"),
        f"{top}/Test/Images/drishtiGS_005.png": Facts(split="test"),
    }
    ignored = [
        f"{top}/Training/GT/drishtiGS_002/SoftMap/drishtiGS_002_ODsegSoftmap.png",
        f"{top}/Training/GT/drishtiGS_002/SoftMap/drishtiGS_002_cupsegSoftmap.png",
        f"{top}/Test/Test_GT/drishtiGS_001/SoftMap/drishtiGS_001_ODsegSoftmap.png",
    ]
    draw(root, *samples, *ignored)
    write(root, f"{top}/Training/GT/drishtiGS_002/drishtiGS_002_cdrValues.txt", "0.7 0.6")
    broken = [cut_short(root, f"{top}/Training/Images/drishtiGS_008.png")]
    rows = [
        [None, "Drishti-GS1: retinal image dataset"],
        [None, "Glaucoma decision of four experts"],
        [None, "-1: normal, 1: glaucomatous"],
        [None, "Drishti-GS File", "Marking 1", "Marking 2", "Marking 3", "Marking 4", None, None,
         "Total"],
        [None, None, "Expert-1", "Expert-2", "Expert-3", "Expert-4"],
        [None, "drishtiGS_001'", -1, -1, 1, -1, None, None, "Normal"],
        [None, "drishtiGS_002'", 1, 1, 1, 1, None, None, "Glaucomatous"],
        [None, "drishtiGS_003'", 1, 1, -1, 1, None, None, "Glaucomatous"],
        [None, "drishtiGS_004'", -1, -1, -1, -1, None, None, "Normal"],
        [None, "drishtiGS_008'", 1, 1, 1, 1, None, None, "Glaucomatous"],
        [None, "drishtiGS_101'", 1, 1, 1, 1, None, None, "Glaucomatous"],
    ]  # fmt: skip
    prefix = f"{sheet}/" if sheet else ""
    book(root, f"{prefix}Drishti-GS1_diagnosis.xlsx", Sheet1=rows)
    return expected(
        samples,
        ignored=ignored,
        labels_without_image=["drishtiGS_101"],
        images_without_label=[f"{top}/Test/Images/drishtiGS_005.png"],
        unreadable=broken,
    )


def grape(root: Path) -> Expected:
    """Visits of an eye in the name; two rows of headings, and crops under the same names."""
    visits = {"1_OD_1": "R", "1_OD_2": "R", "1_OS_1": "L", "2_OS_1": "L", "144_OD_3": "R"}
    samples = {
        f"CFPs/{name}.jpg": told("glaucoma", patient=name.partition("_")[0], eye=eye)
        for name, eye in visits.items()
    }
    draw(root, *samples)
    folders = ("ROI images", "Annotated Images")
    ignored = [f"{folder}/{name}.jpg" for folder in folders for name in visits]
    draw(root, *ignored)
    write(root, "json/1_OD_1.json", "{}")
    broken = [cut_short(root, "CFPs/2_OS_1.jpg"), empty(root, "CFPs/144_OD_3.jpg")]
    baseline = [
        ["Subject Number", "Laterality", "Age", "Gender", "IOP", "CCT", "Total Visits",
         "Progression Status", None, None, "Category of Glaucoma",
         "OCT RNFL thickness", None, None, None, None,
         "Corresponding CFP", "Acquisition Device", "Resolusion", "VF"],
        [*[None] * 7, "PLR2", "PLR3", "MD", None, "Mean", "S", "N", "I", "T", None, None, None, 0],
        [1, "OD", 40, "M", 15, 540, 2, 0, 0, 0, "OAG", *[80] * 5, "1_OD_1.jpg", "TRC-NW8",
         "1556*1556", 25],
        [1, "OS", 40, "M", 16, 541, 1, 0, 0, 0, "OAG", *[80] * 5, "1_OS_1.jpg", "TRC-NW8",
         "1556*1556", 24],
        [2, "OS", 61, "F", 17, 530, 1, 1, 0, 0, "ACG", *[70] * 5, "2_OS_1.jpg", "CR-2 AF",
         "1944*1944", 20],
    ]  # fmt: skip
    follow_up = [
        ["Subject Number", "Laterality", "Visit Number", "Interval Years", "IOP",
         "Corresponding CFP", "Acquisition Device", "Resolusion", "VF"],
        [*[None] * 8, 0],
        [1, "OD", 1, 0, 15, "1_OD_1.jpg", "TRC-NW8", "1556*1556", 25],
        [1, "OD", 2, 0.9, 16, "1_OD_2.jpg", "TRC-NW8", "1556*1556", 24],
        [1, "OS", 2, 0.9, 16, "/", None, None, 22],
        [144, "OD", 3, 2.1, 18, "144_OD_3.jpg", "TRC-NW8", "1556*1556", 12],
    ]  # fmt: skip
    book(root, "VF and clinical information.xlsx", Baseline=baseline, Follow_up=follow_up)
    return expected(samples, ignored=ignored, unreadable=broken)

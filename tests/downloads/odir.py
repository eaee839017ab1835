"""Miniatures of ODIR-5K in the three forms in which it is handed out."""

from pathlib import Path

from tests.downloads.drawing import book, copy, cut_short, draw, empty, table
from tests.downloads.expected import Expected, Facts, expected

COMMA = "\N{FULLWIDTH COMMA}"
FLAGS = ["N", "D", "G", "C", "A", "H", "M", "O"]
HEADING = [
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
    "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", *FLAGS,
]  # fmt: skip
CATARACT_IN_CHINESE = "\u767d\u5185\u969c"
# What is said of each eye, with the flags of the patient, which are not those of the eye.
WORDS = {
    0: ("cataract", "normal fundus", "C"),
    2: (
        f"laser spot{COMMA}moderate non proliferative retinopathy",
        "moderate non proliferative retinopathy",
        "DO",
    ),
    4: ("hypertensive retinopathy,diabetic retinopathy", "drusen ", "DHO"),
    7: (f"lens dust{COMMA}drusen", "lens dust", "O"),
    10: ("mild nonproliferative retinopathy", "severe nonproliferative retinopathy", "D"),
    11: ("proliferative diabetic retinopathy", "dry age-related macular degeneration", "DA"),
    12: ("hypertensive retinopathy", "pathological myopia", "HM"),
    13: ("diabetic retinopathy", f"suspected glaucoma{COMMA}epiretinal membrane", "DGO"),
    4580: ("no fundus image", "glaucoma", "G"),
    4784: (
        f"pathological  myopia{COMMA} refractive media opacity",
        "wet age-related macular degeneration",
        "AM",
    ),
}
# category of each finding, class of `disease`, report: by hand for the eyes above
EYES = {
    "0_left": (("cataract",), "cataract", "cataract"),
    "0_right": (("normal",), "normal", "normal fundus"),
    "2_left": (
        ("laser scar", "moderate diabetic retinopathy"),
        None,
        "laser spot, moderate non proliferative retinopathy",
    ),
    "2_right": (
        ("moderate diabetic retinopathy",),
        "diabetic retinopathy",
        "moderate non proliferative retinopathy",
    ),
    "4_left": (
        ("hypertensive retinopathy", "diabetic retinopathy"),
        None,
        "hypertensive retinopathy, diabetic retinopathy",
    ),
    "4_right": (("drusens",), None, "drusen"),
    "7_left": (("drusens",), None, "drusen"),
    "7_right": ((), None, None),
    "10_left": (
        ("mild diabetic retinopathy",),
        "diabetic retinopathy",
        "mild nonproliferative retinopathy",
    ),
    "10_right": (
        ("severe diabetic retinopathy",),
        "diabetic retinopathy",
        "severe nonproliferative retinopathy",
    ),
    "11_left": (
        ("proliferative diabetic retinopathy",),
        "diabetic retinopathy",
        "proliferative diabetic retinopathy",
    ),
    "11_right": (
        ("age related macular degeneration",),
        "age related macular degeneration",
        "dry age-related macular degeneration",
    ),
    "12_left": (
        ("hypertensive retinopathy",),
        "hypertensive retinopathy",
        "hypertensive retinopathy",
    ),
    "12_right": (("pathologic myopia",), "pathologic myopia", "pathological myopia"),
    "13_left": (("diabetic retinopathy",), "diabetic retinopathy", "diabetic retinopathy"),
    "13_right": (
        ("suspected glaucoma", "epiretinal membrane"),
        None,
        "suspected glaucoma, epiretinal membrane",
    ),
    "4580_left": ((), None, None),
    "4580_right": (("glaucoma",), "glaucoma", "glaucoma"),
    "4784_left": (
        ("pathologic myopia", "media haze"),
        None,
        "pathological myopia, refractive media opacity",
    ),
    "4784_right": (
        ("neovascular age related macular degeneration",),
        "age related macular degeneration",
        "wet age-related macular degeneration",
    ),
}
# letters of the labels of each eye, in the order of FLAGS: by hand for the eyes above
LABELS = {
    "0_left": "C", "0_right": "N", "2_left": "DO", "2_right": "D", "4_left": "DH", "4_right": "O",
    "7_left": "O", "7_right": "", "10_left": "D", "10_right": "D", "11_left": "D", "11_right": "A",
    "12_left": "H", "12_right": "M", "13_left": "D", "13_right": "GO", "4580_left": "",
    "4580_right": "G", "4784_left": "MO", "4784_right": "A",
}  # fmt: skip
NAMES = {
    "N": "normal", "D": "diabetic retinopathy", "G": "glaucoma", "C": "cataract",
    "A": "age related macular degeneration", "H": "hypertensive retinopathy",
    "M": "pathologic myopia", "O": "other",
}  # fmt: skip


def eye(stem: str, split: str | None) -> Facts:
    """Return the facts of one eye."""
    patient, _, side = stem.partition("_")
    categories, disease, report = EYES[stem]
    labels = {"disease": disease} if disease else {}
    if LABELS[stem]:
        labels["diseases"] = "|".join(NAMES[letter] for letter in LABELS[stem])
    return Facts(patient, {"left": "L", "right": "R"}[side], split, labels, categories, report)


def _row(patient: int) -> list[str | int]:
    left, right, flags = WORDS[patient]
    names = [f"{patient}_left.jpg", f"{patient}_right.jpg"]
    return [patient, 50 + patient % 20, "Female", *names, left, right, *(
        int(flag in flags) for flag in FLAGS
    )]  # fmt: skip


def _sheet(*patients: int) -> list[list[str | int]]:
    return [list(HEADING), *map(_row, patients)]


def challenge(root: Path) -> Expected:
    """Of the grand challenge: the table is an xlsx, the test images have no findings."""
    folder = "ODIR-5K_Training_Images/ODIR-5K_Training_Dataset"
    gone = "4784_right"
    samples = {f"{folder}/{stem}.jpg": eye(stem, "train") for stem in EYES if stem != gone}
    test = ["ODIR-5K_Testing_Images/937_left.jpg", "ODIR-5K_Testing_Images/937_right.jpg"]
    samples[test[0]] = Facts("937", "L", "test")
    samples[test[1]] = Facts("937", "R", "test")
    draw(root, *samples)
    broken = [cut_short(root, f"{folder}/2_right.jpg"), empty(root, test[1])]
    book(root, "ODIR-5K_Training_Annotations(Updated)_V2.xlsx", Sheet1=_sheet(*WORDS))
    return expected(
        samples, labels_without_image=[gone], images_without_label=test, unreadable=broken
    )


def kaggle(root: Path) -> Expected:
    """Of Kaggle: a row an eye in the CSV, more patients in the xlsx, cropped copies beside."""
    folder, test = "ODIR-5K/ODIR-5K/Training Images", "ODIR-5K/ODIR-5K/Testing Images/937_left.jpg"
    samples = {f"{folder}/{stem}.jpg": eye(stem, "train") for stem in EYES}
    samples[test] = Facts("937", "L", "test")
    draw(root, *samples)
    _full_df(root, (0, "right"), (2, "right"), (4, "right"), (0, "left"), (2, "left"))
    book(root, "ODIR-5K/ODIR-5K/data.xlsx", Sheet1=_sheet(*WORDS))
    stems = ("0_right", "2_right", "4_right", "0_left", "2_left")
    copies = {f"preprocessed_images/{stem}.jpg": f"{folder}/{stem}.jpg" for stem in stems}
    return expected(samples, ignored=copy(root, copies), images_without_label=[test])


def preprocessed(root: Path) -> Expected:
    """Kaggle's cropped eyes alone; the xlsx has been filled with letters in place of words."""
    stems = ("0_right", "2_right", "0_left", "2_left")
    samples = {f"preprocessed_images/{stem}.jpg": eye(stem, "train") for stem in stems}
    draw(root, *samples)
    _full_df(root, (0, "right"), (2, "right"), (0, "left"), (2, "left"), (4, "left"))
    coded = [[*_row(patient)[:5], f"O{COMMA}D", "D", *_row(patient)[7:]] for patient in WORDS]
    book(root, "data.xlsx", Sheet1=[HEADING, *coded])
    return expected(samples, labels_without_image=["4_left", "4_right"])


def _full_df(root: Path, *eyes: tuple[int, str]) -> None:
    rows = []
    for patient, side in eyes:
        name = f"{patient}_{side}.jpg"
        dead = f"../input/ocular-disease-recognition-odir5k/ODIR-5K/Training Images/{name}"
        rows.append([*_row(patient), dead, "['N']", "[1, 0, 0, 0, 0, 0, 0, 0]", name])
    table(root, "full_df.csv", [*HEADING, "filepath", "labels", "target", "filename"], *rows)


def oia(root: Path) -> Expected:
    """Of OIA-ODIR, all sets with findings, each sheet in English and in Chinese."""
    return _oia(root, "{} Set/Annotation/{} annotation ({}).xlsx", "{} Set/Images")


def oia_renamed(root: Path) -> Expected:
    """A copy of it with other names for the folders and the sheets."""
    return _oia(root, "{}_Set/Annotation/ODIR-5K_{}({}).xlsx", "{}_Set/Images")


def _oia(root: Path, sheets: str, images: str) -> Expected:
    # Chinese sheets come first in the order of names, and must not be taken
    sets = (("Training", (0, 2), "train"), ("Off-site Test", (4,), "off-site test"),
            ("On-site Test", (4784,), "on-site test"))  # fmt: skip
    samples = {}
    for name, patients, split in sets:
        place = name.replace(" ", "_") if "_Set" in images else name
        short = name.lower() if "annotation (" in sheets else name.split()[0].replace("-", "")
        chinese = [[*_row(p)[:5], *[CATARACT_IN_CHINESE] * 2, *_row(p)[7:]] for p in patients]
        top = "OIA-ODIR/"
        book(root, top + sheets.format(place, short, "Chinese"), Sheet1=[HEADING, *chinese])
        book(root, top + sheets.format(place, short, "English"), Sheet1=_sheet(*patients))
        for patient in patients:
            for side in ("left", "right"):
                stem = f"{patient}_{side}"
                samples[f"{top}{images.format(place)}/{stem}.jpg"] = eye(stem, split)
    draw(root, *samples)
    return expected(samples)

"""A miniature of DeepDRiD: regular and ultra-widefield images, as the clone has them."""

from pathlib import Path

from downloads.drawing import book, cut_short, draw, empty, table
from downloads.expected import Expected, Facts, expected
from downloads.grading import graded

DEEPDRID_HEADING = [
    "patient_id", "image_id", "image_path", "Overall quality", "left_eye_DR_Level",
    "right_eye_DR_Level", "patient_DR_Level", "Clarity", "Field definition", "Artifact",
]  # fmt: skip


def _eye(name: str, split: str, grade: str, eye: str, quality: str) -> Facts:
    patient = name.partition("_")[0]
    return graded(grade, patient=patient, eye=eye, split=split, overall_quality=quality)


def deepdrid(root: Path) -> Expected:
    """The clone: paths with back-slashes, an ampersand in a folder, a template of labels."""
    top = "DeepDRiD-master/regular_fundus_images"
    parts = [f"{top}/{name}" for name in ("regular-fundus-training", "regular-fundus-validation",
                                          "Online-Challenge1&2-Evaluation")]  # fmt: skip
    # image: grade, eye, quality; the letter in a name is not always that of the eye
    known = {
        "train": {"1_l1": ("0", "L", "0"), "1_r1": ("2", "R", "1"), "56_l1": ("3", "L", "1"),
                  "56_r3": ("3", "L", "1"), "56_l3": ("4", "R", "0"), "56_r2": ("4", "R", "1")},
        "val": {"265_l1": ("1", "L", "1"), "265_r2": ("0", "R", "1")},
    }  # fmt: skip
    samples, rows = {}, {"train": [], "val": []}
    for part, folder in zip(known, parts, strict=False):
        for name, (grade, eye, quality) in known[part].items():
            patient = name.partition("_")[0]
            samples[f"{folder}/Images/{patient}/{name}.jpg"] = _eye(name, part, grade, eye, quality)
            path = f"\\{Path(folder).name}\\{patient}\\{name}.jpg"
            levels = [grade, "", grade] if eye == "L" else ["", grade, grade]
            rows[part].append([patient, name, path, quality, *levels, 8, 8, 4])
    extra = f"{parts[1]}/Images/266/266_l1.jpg"
    samples[extra] = Facts("266", None, "val")
    online = parts[2]
    samples[f"{online}/Images/347/347_l1.jpg"] = graded("2", patient="347", split="test")
    samples[f"{online}/Images/347/347_r1.jpg"] = graded("4", patient="347", split="test")
    wide = [f"DeepDRiD-master/ultra-widefield_images/ultra-widefield-training/Images/1/1_{n}.jpg"
            for n in ("l1", "r1")]  # fmt: skip
    draw(root, *samples, *wide)
    broken = [cut_short(root, f"{parts[0]}/Images/56/56_r2.jpg"),
              empty(root, f"{parts[1]}/Images/265/265_r2.jpg")]  # fmt: skip
    gone = ["2", "2_l1", "\\regular-fundus-training\\2\\2_l1.jpg", 1, 0, "", 0, 8, 8, 4]
    for part, folder in zip(("train", "val"), parts, strict=False):
        name = f"{folder}/{Path(folder).name}.csv"
        more = [gone] if part == "train" else []
        table(root, name, DEEPDRID_HEADING, *rows[part], *more)
    _deepdrid_rest(root, parts[2])
    return expected(
        samples,
        ignored=wide,
        labels_without_image=["2_l1"],
        images_without_label=[extra],
        unreadable=broken,
    )


def _deepdrid_rest(root: Path, online: str) -> None:
    """Write the labels of the online challenge, its template, and the ultra-widefield table."""
    template = [["347_l1", ""], ["347_r1", ""]]
    table(root, f"{online}/Challenge1_upload.csv", ["image_id", "DR_Level"], *template)
    table(root, f"{online}/Challenge2_upload.csv", ["image_id", "Overall quality"], *template)
    labels = [["image_id", "DR_Levels"], ["347_l1", 2], ["347_r1", 4]]
    book(root, f"{online}/Challenge1_labels.xlsx", Sheet1=labels)
    folder = "DeepDRiD-master/ultra-widefield_images/ultra-widefield-training"
    table(
        root,
        f"{folder}/ultra-widefield-training.csv",
        ["patient_id", "image_id", "image_path", "DR_level", "position"],
        *([1, "1_l1", "ultra-widefield-training\\1\\1_l1.jpg", 5, "left_eye"],),
        [1, "1_r1", "ultra-widefield-training\\1\\1_r1.jpg", 3, "right_eye"],
    )

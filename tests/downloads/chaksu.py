"""A miniature of Chaksu: three cameras, two sets, and a table for each of the six."""

from pathlib import Path

from tests.downloads.drawing import cut_short, draw, empty, table, write
from tests.downloads.expected import Expected, Facts, expected
from tests.downloads.glaucoma import told

CHAKSU_HEADING = ["Images", *(f"Expert.{n}" for n in range(1, 6))]
NORMAL, SUSPECT, MISSPELT = "NORMAL", "GLAUCOMA SUSPECT", "GLAUCOMA  SUSUPECT"


def chaksu(root: Path) -> Expected:
    """A table a camera and a set; ids that name the image twice, and decisions misspelt."""
    no, yes = "no glaucoma", "suspected glaucoma"
    train, test = ("Train/1.0_Original_Fundus_Images", "Test/1.0_Original_Fundus_Images")
    samples = {
        f"{train}/Bosch/Image101.JPG": told(no, "train"),
        f"{train}/Bosch/P8_Image2.JPG": told(yes, "train"),
        f"{train}/Forus/1.png": told(yes, "train"),
        f"{train}/Forus/95.png": told(no, "train"),
        f"{train}/Remidio/17521.JPG": told(yes, "train"),
        f"{train}/Remidio/IMG_3706.JPG": told(no, "train"),
        f"{train}/Remidio/IMG_3707.JPG": Facts(split="train"),
        f"{test}/Bosch/Image101.JPG": told(yes, "test"),  # the name of another eye
        f"{test}/Forus/96.png": told(no, "test"),
        f"{test}/Remidio/IMG_4000.JPG": told(yes, "test"),
    }
    decoys = [
        "Train/2.0_Doctors_Annotations/Expert 1/Bosch/Image101.jpg",
        "Train/3.0_Doctors_Annotations_Binary_OD_OC/Expert 1/Bosch/Cup/Image101-1.tif",
        "Train/3.0_Doctors_Annotations_Binary_OD_OC/Expert 2/Bosch/cup/Image101-1.tif",
        "Test/4.0_OD_CO_Fusion_Images/Expert 1/Remedio/IMG_4000-1.png",
        "Test/5.0_OD_OC_Mean_Median_Majority_STAPLE/Majority/Forus/96.png",
    ]
    draw(root, *samples, *decoys)
    broken = [cut_short(root, f"{train}/Forus/95.png"), empty(root, f"{test}/Remidio/IMG_4000.JPG")]
    write(root, f"__MACOSX/{train}/Bosch/._Image101.JPG", b"\x00\x05\x16\x07")
    tables = {
        ("Train", "Bosch", "Majority Decision"): [
            ("Image101.jpg-Image101-1.jpg", NORMAL),
            ("P8_Image2.jpg-P8_Image2-1.jpg", SUSPECT),
            ("Image999.jpg-Image999-1.jpg", NORMAL),
        ],
        ("Train", "Forus", "Majority Decision"): [
            ("1.jpg-1-1.jpg", MISSPELT),
            ("95.jpg-95-1.jpg", NORMAL),
        ],
        ("Train", "Remidio", "Majority Decision"): [
            ("17521.tif-17521-1.tif", SUSPECT),
            ("IMG_3706.jpg-IMG_3706-1.jpg", NORMAL),
        ],
        ("Test", "Bosch", "Majority Decision"): [("Image101.jpg-Image101-1.jpg", MISSPELT)],
        ("Test", "Forus", "Glaucoma Decision"): [("96.jpg-96-1.jpg", NORMAL)],
        ("Test", "Remidio", "Glaucoma Decision"): [("IMG_4000.jpg-IMG_4000-1.jpg", SUSPECT)],
    }
    for (part, camera, decision), rows in tables.items():
        folder = f"{part}/6.0_Glaucoma_Decision"
        votes = [[name, *[SUSPECT] * 2, *[NORMAL] * 3, value] for name, value in rows]
        name = f"{folder}/Glaucoma_Decision_Comparison_{camera}_majority.csv"
        table(root, name, [*CHAKSU_HEADING, decision], *votes, bom=camera != "Forus")
        # one expert, who sees glaucoma everywhere
        alone = [[name, SUSPECT] for name, _ in rows]
        table(root, f"{folder}/Expert 1/{camera}.csv", ["Images", "Glaucoma Decision"], *alone)
    write(root, "Readme_Chaksu IMAGE Database.pdf", b"%PDF-1.4\n")
    return expected(
        samples,
        ignored=decoys,
        labels_without_image=["image999"],
        images_without_label=[f"{train}/Remidio/IMG_3707.JPG"],
        unreadable=broken,
    )

"""Miniatures of the glaucoma datasets whose labels stand in names, folders or one table."""

from pathlib import Path

from tests.downloads.drawing import copy, cut_short, draw, empty, junk, table, write
from tests.downloads.expected import Expected, Facts, expected


def told(name: str, split: str | None = None, **known: str) -> Facts:
    """Return the facts of an image whose class of glaucoma is its category too."""
    return Facts(split=split, labels={"glaucoma": name}, categories=(name,), **known)


NO, YES, SUSPECTED = (told(name) for name in ("no glaucoma", "glaucoma", "suspected glaucoma"))


def airogs(root: Path) -> Expected:
    """Six folders of numbers, in which a class is not to be seen, and a table."""
    samples = {
        "0/TRAIN000000.jpg": NO,
        "0/TRAIN000001.jpg": YES,
        "1/TRAIN017000.JPG": NO,
        "2/TRAIN034000.jpg": NO,
        "3/TRAIN051000.jpg": YES,
        "4/TRAIN068000.jpg": NO,
        "5/TRAIN101441.jpg": YES,
        "5/TRAIN101440.jpg": Facts(),
    }
    draw(root, *samples)
    broken = [cut_short(root, "4/TRAIN068000.jpg"), empty(root, "3/TRAIN051000.jpg")]
    junk(root, "0", "TRAIN000000.jpg")
    rows = [
        [Path(name).stem, "RG" if facts == YES else "NRG"]
        for name, facts in samples.items()
        if facts.labels
    ]
    table(root, "train_labels.csv", ["challenge_id", "class"], *rows, ["TRAIN101439", "RG"])
    return expected(
        samples,
        labels_without_image=["TRAIN101439"],
        images_without_label=["5/TRAIN101440.jpg"],
        unreadable=broken,
    )


def airogs_flat(root: Path) -> Expected:
    """All images in one folder, with the endings of a later edition."""
    samples = {"img/TRAIN000000.JPG": NO, "img/TRAIN000007.JPG": YES}
    draw(root, *samples)
    rows = [["TRAIN000000", "NRG"], ["TRAIN000007", "RG"]]
    table(root, "train_labels.csv", ["challenge_id", "class"], *rows)
    return expected(samples)


def acrima(root: Path) -> Expected:
    """The class is in the name; two names end in upper case."""
    top = "Database/Images"
    samples = {
        f"{top}/Im001_ACRIMA.jpg": NO,
        f"{top}/Im309_ACRIMA.jpg": NO,
        f"{top}/Im310_g_ACRIMA.jpg": YES,
        f"{top}/Im702_g_ACRIMA.JPG": YES,
        f"{top}/Im703_g_ACRIMA.JPG": YES,
    }
    draw(root, *samples)
    broken = [cut_short(root, f"{top}/Im309_ACRIMA.jpg"), empty(root, f"{top}/Im703_g_ACRIMA.JPG")]
    junk(root, top, "Im001_ACRIMA.jpg")
    return expected(samples, unreadable=broken)


def lag(root: Path) -> Expected:
    """Beside each image an attention map and a text, both of its name."""
    top = "LAG_database_part_1"
    samples = {
        f"{top}/non_glaucoma/image/0001.jpg": NO,
        f"{top}/non_glaucoma/image/3202.jpg": NO,
        f"{top}/suspicious_glaucoma/image/1108.jpg": SUSPECTED,
        f"{top}/suspicious_glaucoma/image/4147.jpg": SUSPECTED,
    }
    draw(root, *samples)
    maps = [name.replace("/image/", "/attention_map/") for name in samples]
    draw(root, *maps)
    for name in samples:
        text = name.replace("/image/", "/label/").replace(".jpg", ".txt")
        write(root, text, str(int("suspicious" in name)))
    broken = [cut_short(root, f"{top}/suspicious_glaucoma/image/4147.jpg")]
    return expected(samples, ignored=maps, unreadable=broken)


def glaucoma_fundus(root: Path) -> Expected:
    """Three folders, one name in two of them, whose order by name is not that of severity."""
    stages = {
        "normal_control": "normal",
        "early_glaucoma": "early glaucoma",
        "advanced_glaucoma": "advanced glaucoma",
    }
    samples = {
        f"dataverse_files/{folder}/{name}": told(stage)
        for folder, stage in stages.items()
        for name in ("103.png", f"{len(stage)}.JPG")
        if (folder, name) != ("advanced_glaucoma", "103.png")
    }
    draw(root, *samples)
    return expected(samples, unreadable=[empty(root, "dataverse_files/early_glaucoma/103.png")])


def origa(root: Path) -> Expected:
    """Within Kaggle's bundle, beside G1020; a stray TIFF carries the name of an image."""
    top = "ORIGA/ORIGA"
    samples = {
        f"{top}/Images/001.jpg": NO,
        f"{top}/Images/002.jpg": YES,
        f"{top}/Images/013.jpg": NO,
        f"{top}/Images/650.JPG": YES,
        f"{top}/Images/651.jpg": Facts(),
    }
    draw(root, *samples)
    places = ("Images_Cropped", "Images_Square")
    copies = {f"{top}/{p}/{n}.jpg": f"{top}/Images/{n}.jpg" for p in places for n in ("001", "013")}
    masks = [f"{top}/{p}/001.png" for p in ("Masks", "Masks_Cropped", "Masks_Square")]
    others = [f"{top}/Semi-automatic-annotations/013.tif", "G1020/Images/image_0.jpg"]
    draw(root, *masks, *others)
    ignored = [*copy(root, copies), *masks, *others]
    broken = [cut_short(root, f"{top}/Images/650.JPG")]
    write(root, f"{top}/Semi-automatic-annotations/001.mat", "MATLAB 5.0 MAT-file")
    table(
        root,
        f"{top}/OrigaList.csv",
        ["Eye", "Filename", "ExpCDR", "Set", "Glaucoma"],
        *(["OD", "001.jpg", 0.7097, "A", 0], ["OS", "002.jpg", 0.6953, "B", 1]),
        *(["OD", "013.jpg", 0.5, "A", 0], ["OS", "650.jpg", 0.8, "B", 1]),
        ["OD", "649.jpg", 0.4, "A", 0],
    )
    heading = ["Image", "Source", "Cropped", "CDR", "Ecc-Cup", "Ecc-Disc", "Label"]
    place = "/kaggle/input/ORIGA/Images/001.jpg"
    table(root, f"{top}/origa_info.csv", heading, [place, "ORIGA", place, 0.7, 0.5, 0.4, 0])
    table(root, "G1020/G1020.csv", ["imageID", "binaryLabels"], ["image_0.jpg", 1])
    return expected(
        samples,
        ignored=ignored,
        labels_without_image=["649"],
        images_without_label=[f"{top}/Images/651.jpg"],
        unreadable=broken,
    )

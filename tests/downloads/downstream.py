"""Miniatures of the datasets that the tables of the paper are about, as first published."""

from pathlib import Path

from tests.downloads.drawing import copy, cut_short, draw, empty, junk, table, write
from tests.downloads.expected import Expected, Facts, expected
from tests.downloads.grading import graded

NO_EDEMA, FAR_EDEMA, EDEMA = (
    "no referable diabetic macular edema",
    "non clinically significant diabetic macular edema",
    "diabetic macular edema",
)


def aptos2019(root: Path) -> Expected:
    """As Kaggle gives it: a test set without grades, and a submission that looks like grades."""
    samples = {
        "train_images/000c1434d8d7.png": graded("2", split="train"),
        "train_images/001639a390f0.png": graded("4", split="train"),
        "train_images/0024cdab0c1e.PNG": graded("1", split="train"),
        "train_images/002c21358ce6.png": graded("0", split="train"),
        "train_images/005b95c28852.png": graded("3", split="train"),
        "test_images/0005cfc8afb6.png": Facts(split="test"),
        "test_images/003f0afdcd15.png": Facts(split="test"),
    }
    draw(root, *samples)
    broken = [cut_short(root, "train_images/005b95c28852.png")]
    grades = [[Path(name).stem, facts.labels.get("diabetic_retinopathy")]
              for name, facts in samples.items() if facts.labels]  # fmt: skip
    table(root, "train.csv", ["id_code", "diagnosis"], *grades, ["00a8624548a9", 2])
    table(root, "test.csv", ["id_code"], ["0005cfc8afb6"], ["003f0afdcd15"])
    zeros = [["0005cfc8afb6", 0], ["003f0afdcd15", 0]]
    table(root, "sample_submission.csv", ["id_code", "diagnosis"], *zeros)
    return expected(
        samples,
        labels_without_image=["00a8624548a9"],
        images_without_label=["test_images/0005cfc8afb6.png", "test_images/003f0afdcd15.png"],
        unreadable=broken,
    )


def aptos2019_mirror(root: Path) -> Expected:
    """A mirror with a division of its own, each folder of images within one of its name."""
    samples = {
        "train_images/train_images/1ae8c165fd53.png": graded("2", split="train"),
        "val_images/val_images/002c21358ce6.png": graded("0", split="val"),
        "test_images/test_images/e4dcca36ceb4.png": graded("4", split="test"),
    }
    draw(root, *samples)
    table(root, "train_1.csv", ["id_code", "diagnosis"], ["1ae8c165fd53", 2])
    table(root, "valid.csv", ["id_code", "diagnosis"], ["002c21358ce6", 0])
    table(root, "test.csv", ["id_code", "diagnosis"], ["e4dcca36ceb4", 4])
    return expected(samples)


def idrid(root: Path) -> Expected:
    """Part B beside A and C, whose pictures are those of B under other names."""
    ignored = [
        "A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg",
        "A. Segmentation/2. All Segmentation Groundtruths/a. Training Set/"
        "1. Microaneurysms/IDRiD_01_MA.tif",
        "C. Localization/1. Original Images/a. Training Set/IDRiD_001.jpg",
    ]
    draw(root, *ignored)
    found = _idrid(root, "B. Disease Grading")
    return found._replace(ignored=ignored)


def idrid_nested(root: Path) -> Expected:
    """Part B alone, unpacked into a folder whose name came from an address."""
    return _idrid(root, "B.%20Disease%20Grading/B. Disease Grading")


def _idrid(root: Path, top: str) -> Expected:
    train = f"{top}/1. Original Images/a. Training Set"
    test = f"{top}/1. Original Images/b. Testing Set"
    samples = {
        f"{train}/IDRiD_001.jpg": graded("3", EDEMA, split="train", macular_edema="2"),
        f"{train}/IDRiD_002.jpg": graded("0", NO_EDEMA, split="train", macular_edema="0"),
        f"{train}/IDRiD_003.JPG": graded("2", FAR_EDEMA, split="train", macular_edema="1"),
        f"{train}/IDRiD_413.jpg": graded("4", EDEMA, split="train", macular_edema="2"),
        f"{test}/IDRiD_001.jpg": graded("1", NO_EDEMA, split="test", macular_edema="0"),
        f"{test}/IDRiD_103.jpg": graded("4", EDEMA, split="test", macular_edema="2"),
    }
    draw(root, *samples)
    broken = [empty(root, f"{train}/IDRiD_413.jpg")]
    heading = ["Image name", "Retinopathy grade", "Risk of macular edema "]
    blank = [""] * 9
    table(
        root,
        f"{top}/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv",
        *([*heading, *blank], ["IDRiD_001", 3, 2, *blank], ["IDRiD_002", 0, 0, *blank]),
        *(["IDRiD_003", 2, 1, *blank], ["IDRiD_413", 4, 2, *blank]),
        ["IDRiD_004", 2, 0, *blank],
    )
    rows = [["IDRiD_001", 1, 0], ["IDRiD_103", 4, 2]]
    labels = f"{top}/2. Groundtruths/b. IDRiD_Disease Grading_Testing Labels.csv"
    table(root, labels, heading, *rows)
    return expected(samples, labels_without_image=["IDRiD_004"], unreadable=broken)


JSIEC = {
    "0.0.Normal": "normal",
    "0.1.Tessellated fundus": "tessellation",
    "0.2.Large optic cup": "large optic cup",
    "10.1.Optic atrophy": "optic atrophy",
    "11.Severe hypertensive retinopathy": "severe hypertensive retinopathy",
    "15.0.Retinitis pigmentosa": "retinitis pigmentosa",
    "12.Disc swelling and elevation": "disc swelling and elevation",
    "13.Dragged Disc": "dragged disk",
    "14.Congenital disc abnormality": "congenital disk abnormality",
    "15.1.Bietti crystalline dystrophy": "Bietti crystalline dystrophy",
    "16.Peripheral retinal degeneration and break": "peripheral retinal degeneration and break",
    "17.Myelinated nerve fiber": "myelinated nerve fibers",
    "19.Fundus neoplasm": "neoplasm",
    "2.0.BRVO": "branch retinal vein occlusion",
    "2.1.CRVO": "central retinal vein occlusion",
    "20.Massive hard exudates": "hard exudates",
    "21.Yellow-white spots-flecks": "yellow-white spots flecks",
    "22.Cotton-wool spots": "cotton wool spots",
    "23.Vessel tortuosity": "tortuous vessels",
    "25.Preretinal hemorrhage": "preretinal haemorrhage",
    "26.Fibrosis": "fibrosis",
    "27.Laser Spots": "laser scar",
    "28.Silicon oil in eye": "silicon oil",
    "4.Rhegmatogenous RD": "retina detachment",
    "5.0.CSCR": "central serous retinopathy",
    "5.1.VKH disease": "Vogt-Koyanagi syndrome",
    "6.Maculopathy": "maculopathy",
    "7.ERM": "epiretinal membrane",
    "8.MH": "macular hole",
    "9.Pathological myopia": "pathologic myopia",
}


def jsiec_facts(folder: str, split: str | None = None) -> Facts:
    """Return the facts of an image in a class folder."""
    return Facts(split=split, labels={"disease": folder}, categories=(JSIEC[folder],))


def jsiec(root: Path) -> Expected:
    """Two dots before the ending, a TIFF among JPEG, and the whole set again one folder down."""
    samples = {
        f"1000images/{folder}/1ffa96{number:02x}-8d87-11e8-9daf..JPG": jsiec_facts(folder)
        for number, folder in enumerate(JSIEC)
    }
    samples["1000images/7.ERM/9.jpg"] = jsiec_facts("7.ERM")
    samples["1000images/2.0.BRVO/a.b.tif"] = jsiec_facts("2.0.BRVO")
    draw(root, *samples)
    nested = {name.replace("1000images/", "1000images/1000images/", 1): name for name in samples}
    ignored = copy(root, nested)
    broken = [empty(root, "1000images/7.ERM/9.jpg")]
    junk(root, "1000images/8.MH", "1ffa9620-8d87-11e8-9daf..JPG")
    return expected(samples, ignored=ignored, unreadable=broken)


RETINA = {
    "1_normal": ("normal", ("NL_001.png", "NL_300.png")),
    "2_cataract": ("cataract", ("cataract_001.png", "cataract_100.PNG")),
    "2_glaucoma": ("glaucoma", ("Glaucoma_001.png", "Glaucoma_101.png")),
    "3_retina_disease": ("retina disease", ("Retina_001.png", "Retina_100.png")),
}


def retina(root: Path) -> Expected:
    """Four folders, two of which begin with the same number."""
    found = _retina(root, "dataset")
    return found._replace(unreadable=[cut_short(root, "dataset/2_cataract/cataract_001.png")])


def retina_archive(root: Path) -> Expected:
    """The same within the folder that Kaggle's archive unpacks to."""
    return _retina(root, "archive/dataset")


def _retina(root: Path, top: str) -> Expected:
    samples = {
        f"{top}/{folder}/{name}": Facts(labels={"disease": disease}, categories=(disease,))
        for folder, (disease, names) in RETINA.items()
        for name in names
    }
    draw(root, *samples)
    write(root, f"{top}/README.md", "retina dataset")
    return expected(samples)

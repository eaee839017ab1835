"""The splits that RETFound handed out: a folder a split, in it a folder a class, and a readme."""

from pathlib import Path

from tests.downloads.downstream import jsiec_facts
from tests.downloads.drawing import cut_short, draw, write
from tests.downloads.expected import Expected, Facts, expected
from tests.downloads.grading import graded

SPLITS = ("train", "val", "test")
GLAUCOMA = {
    "anormal_control": ("normal", "normal"),
    "bearly_glaucoma": ("early glaucoma", "early glaucoma"),
    "cadvanced_glaucoma": ("advanced glaucoma", "advanced glaucoma"),
}
DISEASES = {
    "anormal": "normal",
    "bcataract": "cataract",
    "cglaucoma": "glaucoma",
    "ddretina_disease": "retina disease",
}


def _written(root: Path, top: str, samples: dict[str, Facts]) -> Expected:
    draw(root, *samples)
    broken = [cut_short(root, next(iter(samples)))]
    write(root, f"{top}/readme.txt", "Split used in RETFound")
    return expected(samples, unreadable=broken)


def _grades(root: Path, top: str, folders: str) -> Expected:
    samples = {
        f"{top}/{split}/{folder}/x{grade}.png": graded(str(grade), split=split)
        for split in SPLITS
        for grade, folder in enumerate(folders.split())
    }
    return _written(root, top, samples)


def aptos2019(root: Path) -> Expected:
    return _grades(root, "APTOS2019", "anodr bmilddr cmoderatedr dseveredr eproliferativedr")


def messidor2(root: Path) -> Expected:
    return _grades(root, "MESSIDOR2", "anodr bmilddr cmoderatedr dseveredr eproliferativedr")


def idrid(root: Path) -> Expected:
    return _grades(root, "IDRiD_data", "anoDR bmildDR cmoderateDR dsevereDR eproDR")


def glaucoma_fundus(root: Path) -> Expected:
    """Doubly nested, and with one name in two classes and two splits."""
    top = "Glaucoma_fundus/Glaucoma_fundus"
    samples = {
        f"{top}/{split}/{folder}/103.png": Facts(
            split=split, labels={"glaucoma": name}, categories=(category,)
        )
        for split in SPLITS
        for folder, (name, category) in GLAUCOMA.items()
    }
    return _written(root, top, samples)


def jsiec(root: Path) -> Expected:
    samples = {
        f"JSIEC/{split}/{folder}/{name}": jsiec_facts(folder, split)
        for split in SPLITS
        for folder, name in (
            ("0.0.Normal", f"{split}..JPG"),
            ("2.0.BRVO", f"{split}.tif"),
            ("15.0.Retinitis pigmentosa", f"{split}.jpg"),
        )
    }
    return _written(root, "JSIEC", samples)


def retina(root: Path) -> Expected:
    samples = {
        f"Retina/{split}/{folder}/{split}_001.png": Facts(
            split=split, labels={"disease": disease}, categories=(disease,)
        )
        for split in SPLITS
        for folder, disease in DISEASES.items()
    }
    return _written(root, "Retina", samples)

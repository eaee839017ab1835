"""Miniatures of the datasets of several diseases: STARE, HRF and FIVES."""

from pathlib import Path

from tests.downloads.drawing import book, cut_short, draw, empty, junk, write
from tests.downloads.expected import Expected, Facts, expected


def _diagnosis(report: str | None, *categories: str) -> Facts:
    return Facts(categories=categories, report=report)


# the line of each image behind its number, and what it says
STARE = {
    "im0003": ("0\tNormal", _diagnosis("Normal", "normal")),
    "im0008": (
        "8\tProliferative Diabetic Retinopathy",
        _diagnosis("Proliferative Diabetic Retinopathy", "proliferative diabetic retinopathy"),
    ),
    "im0011": (
        "5 10\tCentral Retinal Vein Occlusion AND Hypertensuve  Retinopathy",
        _diagnosis(
            "Central Retinal Vein Occlusion AND Hypertensuve Retinopathy",
            *("central retinal vein occlusion", "hypertensive retinopathy"),
        ),
    ),
    "im0017": (
        "4\t\tBranch Retinal Vein Occlusion",
        _diagnosis("Branch Retinal Vein Occlusion", "branch retinal vein occlusion"),
    ),
    "im0023": ("14\t", _diagnosis(None)),
    "im0039": (
        '14\t"Age Related Macular Degeneration or Epiretinal Membrane"',
        _diagnosis(
            "Age Related Macular Degeneration or Epiretinal Membrane",
            *("age related macular degeneration", "epiretinal membrane"),
        ),
    ),
    "im0061": ("14\t  asteroud hyalosis", _diagnosis("asteroud hyalosis", "asteroid hyalosis")),
    "im0077": (
        "10\tHypertensive Retinopathy [V: how could it be]",
        _diagnosis("Hypertensive Retinopathy [V: how could it be]", "hypertensive retinopathy"),
    ),
    "im0119": (
        "9 10\tASR &HTR",
        _diagnosis("ASR &HTR", "arteriosclerotic retinopathy", "hypertensive retinopathy"),
    ),
    "im0140": ("14\tUnknown Diagnosis", _diagnosis(None)),
    "im0355": (
        "9\tand Arteriosclerotic Retinopathy",
        _diagnosis("and Arteriosclerotic Retinopathy", "arteriosclerotic retinopathy"),
    ),
    "im0200": (
        "7\tBackground Diabetic Retinopathy",
        _diagnosis("Background Diabetic Retinopathy", "background diabetic retinopathy"),
    ),
    "im0201": (
        "5\tCentral Retinal Vein Occlusion (old)",
        _diagnosis("Central Retinal Vein Occlusion (old)", "central retinal vein occlusion"),
    ),
    "im0202": ("14\tDrusen, large", _diagnosis("Drusen, large", "drusens")),
    "im0203": ("14\tDrusen, fine", _diagnosis("Drusen, fine", "drusens")),
    "im0204": ("12\tMacroaneurism", _diagnosis("Macroaneurism", "macroaneurysm")),
    "im0205": (
        "12\tMacroaneurism, disease",
        _diagnosis("Macroaneurism, disease", "macroaneurysm"),
    ),
    "im0206": (
        "14\tAge Related Macular",
        _diagnosis("Age Related Macular", "age related macular degeneration"),
    ),
    "im0207": ("14\tRD", _diagnosis("RD", "retina detachment")),
    "im0208": ("14\tHigh Myopia", _diagnosis("High Myopia", "pathologic myopia")),
    "im0209": (
        "13 14\tChoroidal Neovascularization AND Histoplasmosis",
        _diagnosis(
            "Choroidal Neovascularization AND Histoplasmosis",
            *("neovascularisation", "histoplasmosis"),
        ),
    ),
    "im0386": (
        "14\tChoroidal Hemangioma (recommendation: don't use)",
        _diagnosis("Choroidal Hemangioma (recommendation: don't use)", "choroidal hemangioma"),
    ),
}


def stare(root: Path) -> Expected:
    """Portable pixmaps, a text of tabs, and the vessel subset that repeats twenty pictures."""
    return _stare(root, "all-images", "all-mg-codes.txt")


def stare_renamed(root: Path) -> Expected:
    """A copy with other names for the folder and the text."""
    return _stare(root, "images", "diagnosis.txt")


def _stare(root: Path, folder: str, text: str) -> Expected:
    samples = {f"{folder}/{name}.ppm": facts for name, (_, facts) in STARE.items()}
    samples[f"{folder}/im0402.ppm"] = Facts()
    ignored = [
        "stare-images/im0003.ppm",
        "labels-ah/im0003.ah.ppm",
        "labels-vk/im0003.vk.ppm",
    ]
    draw(root, *samples, *ignored)
    broken = [cut_short(root, f"{folder}/im0008.ppm"), empty(root, f"{folder}/im0017.ppm")]
    lines = [f"{name}\t{line}" for name, (line, _) in STARE.items()]
    write(root, text, "\n".join([*lines, "im0047\t7\tBackground Diabetic Retinopathy"]) + "\n")
    return expected(
        samples,
        ignored=ignored,
        labels_without_image=["im0047"],
        images_without_label=[f"{folder}/im0402.ppm"],
        unreadable=broken,
    )


def _disease(name: str, split: str | None = None) -> Facts:
    return Facts(split=split, labels={"disease": name}, categories=(name,))


HRF = {"dr": "diabetic retinopathy", "g": "glaucoma", "h": "normal"}


def hrf(root: Path) -> Expected:
    """One class in upper case; the vessel maps carry the names of the images."""
    samples = {
        f"images/{number:02d}_{suffix}.{'JPG' if suffix == 'dr' else 'jpg'}": _disease(disease)
        for suffix, disease in HRF.items()
        for number in (1, 15)
    }
    ignored = [
        f"{folder}/01_{suffix}{end}.tif"
        for folder, end in (("manual1", ""), ("mask", "_mask"))
        for suffix in HRF
    ]
    draw(root, *samples, *ignored)
    broken = [cut_short(root, "images/15_dr.JPG"), empty(root, "images/15_g.jpg")]
    return expected(samples, ignored=ignored, unreadable=broken)


def hrf_quality(root: Path) -> Expected:
    """With the pairs of good and bad pictures, of which no disease is told."""
    samples = {f"all/images/02_{suffix}.jpg": _disease(disease) for suffix, disease in HRF.items()}
    pairs = [f"allQuality/{n}_{quality}.JPG" for n in (1, 18) for quality in ("bad", "good")]
    samples |= dict.fromkeys(pairs, Facts())
    draw(root, *samples)
    return expected(samples, images_without_label=pairs)


FIVES = {
    "A": "age related macular degeneration",
    "D": "diabetic retinopathy",
    "G": "glaucoma",
    "N": "normal",
}


def fives(root: Path) -> Expected:
    """Numbers begin anew in the test set; the maps have the names of the images."""
    name = "FIVES A Fundus Image Dataset for AI-based Vessel Segmentation"
    top = f"{name}/{name}"
    numbers = {
        "train": {"A": (1, 150), "D": (151,), "G": (301,), "N": (600,)},
        "test": {"A": (1,), "D": (51,), "G": (101,), "N": (200,)},
    }
    samples = {
        f"{top}/{split}/Original/{number}_{letter}.png": _disease(FIVES[letter], split)
        for split, letters in numbers.items()
        for letter, found in letters.items()
        for number in found
    }
    spelt = {"train": "Ground truth", "test": "Groud truth"}
    ignored = [
        name.replace(f"/{split}/Original/", f"/{split}/{folder}/")
        for split, folder in spelt.items()
        for name in samples
        if f"/{split}/" in name
    ]
    draw(root, *samples, *ignored)
    broken = [cut_short(root, f"{top}/train/Original/150_A.png"),
              empty(root, f"{top}/test/Original/200_N.png")]  # fmt: skip
    junk(root, f"{top}/train/Original", "1_A.png")
    heading = ["Disease", "Number", "IC", "Blur", "LC"]
    sheets = {split: [heading, ["AMD", 1, 1, 1, 1]] for split in numbers}
    book(root, f"{top}/Quality Assessment.xlsx", **sheets)
    return expected(samples, ignored=ignored, unreadable=broken)

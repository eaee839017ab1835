"""Miniatures of RFMiD: a column of 0 and 1 a finding, and the same file names in all three sets."""

from pathlib import Path

from tests.downloads.drawing import cut_short, draw, table
from tests.downloads.expected import Expected, Facts, expected

COLUMNS = [
    "DR", "ARMD", "MH", "DN", "MYA", "BRVO", "TSLN", "ERM", "LS", "MS", "CSR", "ODC", "CRVO",
    "TV", "AH", "ODP", "ODE", "ST", "AION", "PT", "RT", "RS", "CRS", "EDN", "RPEC", "MHL", "RP",
    "CWS", "CB", "ODPM", "PRH", "MNF", "HR", "CRAO", "TD", "CME", "PTCR", "CF", "VH", "MCA",
    "VS", "BRAO", "PLQ", "HPED", "CL",
]  # fmt: skip
NAMES = {
    "DR": "diabetic retinopathy", "MH": "media haze", "ODC": "optic disc cupping",
    "TSLN": "tessellation", "CL": "collaterals", "MYA": "myopia",
}  # fmt: skip
# of each set and image its findings; None is an image with an empty cell
SETS: dict[str, dict[int, tuple[str, ...] | None]] = {
    "train": {1: ("DR",), 2: ("DR", "MH", "ODC"), 3: (), 4: None, 10: ("CL",)},
    "val": {1: ("TSLN",), 2: ()},
    "test": {1: (), 2: ("MYA", "TSLN"), 3: ("MH",)},
}


def _facts(split: str, findings: tuple[str, ...] | None) -> Facts:
    if findings is None:  # the risk is stated, and one finding is not
        return Facts(None, None, split, {"disease_risk": "1"})
    labels = {"disease_risk": str(int(bool(findings))), "findings": "|".join(findings)}
    return Facts(None, None, split, labels, tuple(NAMES[n] for n in findings) or ("normal",))


def _table(root: Path, name: str, images: dict[int, tuple[str, ...] | None]) -> None:
    rows = []
    for image, findings in images.items():
        cells: list[str | int] = [int(column in (findings or ())) for column in COLUMNS]
        if findings is None:
            cells[5] = ""
        rows.append([image, int(findings is None or bool(findings)), *cells])
    table(root, name, ["ID", "Disease_Risk", *COLUMNS], *rows)


def nested(root: Path) -> Expected:
    """As unpacked: a folder in a folder of one name, and a set called Evaluation."""
    places = {
        "train": ("Training_Set/Training_Set", "Training", "RFMiD_Training_Labels.csv"),
        "val": ("Evaluation_Set/Evaluation_Set", "Validation", "RFMiD_Validation_Labels.csv"),
        "test": ("Test_Set/Test_Set", "Test", "RFMiD_Testing_Labels.csv"),
    }
    samples = {}
    for split, (above, folder, name) in places.items():
        for image, findings in SETS[split].items():
            samples[f"{above}/{folder}/{image}.png"] = _facts(split, findings)
        _table(root, f"{above}/{name}", SETS[split] | ({9: ("MH",)} if split == "val" else {}))
    draw(root, *samples, "Training_Set/Training_Set/Training/99.png")
    missing = "Training_Set/Training_Set/Training/99.png"
    samples[missing] = Facts(split="train")
    broken = [cut_short(root, "Test_Set/Test_Set/Test/3.png")]
    return expected(
        samples,
        labels_without_image=["9"],
        images_without_label=[missing],
        unreadable=broken,
    )


def challenge(root: Path) -> Expected:
    """As the challenge hands it out: images and tables apart, with letters before the names."""
    samples = {}
    sets = {"train": "a. Training Set", "val": "b. Validation Set", "test": "c. Testing Set"}
    tables = {
        "train": "a. RFMiD_Training_Labels.csv",
        "val": "b. RFMiD_Validation_Labels.csv",
        "test": "c. RFMiD_Testing_Labels.csv",
    }
    for split, folder in sets.items():
        for image, findings in SETS[split].items():
            samples[f"1. Original Images/{folder}/{image}.png"] = _facts(split, findings)
        _table(root, f"2. Groundtruths/{tables[split]}", SETS[split])
    draw(root, *samples)
    return expected(samples)

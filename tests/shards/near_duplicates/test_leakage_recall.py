"""How many copies are found, and how many found ones are none, on real photographs.

pytest -m slow tests/shards/near_duplicates/test_leakage_recall.py -s
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.shards.building.prepare_sample import encode, field_photograph, perceptual_hash
from maskedclip.shards.check import CheckRequest, check
from maskedclip.shards.make import ShardRequest as Build
from maskedclip.shards.make import build
from tests.real_data import real

ROOTS = {"odir5k": "odir5k", "eyepacs": "eyepacs_subset", "idrid": "idrid/B. Disease Grading"}
PHOTOGRAPHS, EACH = 300, 8


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    middle = (len(image) - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    return cv2.warpAffine(image, matrix, (len(image), len(image)))


def cropped(image: np.ndarray, share: float, left: float = 0.5, top: float = 0.5) -> np.ndarray:
    side = round(len(image) * share)
    x, y = round((len(image) - side) * left), round((len(image) - side) * top)
    return image[y : y + side, x : x + side]


def scaled(image: np.ndarray, side: int, width: int = 0) -> np.ndarray:
    return cv2.resize(image, (width or side, side), interpolation=cv2.INTER_AREA)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality)
    return simplejpeg.decode_jpeg(jpeg, "RGB")


def toned(image: np.ndarray, contrast: float, added: float = 0, gamma: float = 1) -> np.ndarray:
    value = 255 * (image / 255.0) ** gamma * contrast + added
    return value.clip(0, 255).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "160 pixels": lambda x: scaled(x, 160),
    "128 pixels": lambda x: scaled(x, 128),
    "1.6 times as large": lambda x: scaled(x, round(len(x) * 1.6)),
    "JPEG quality 30": lambda x: compressed(x, 30),
    "JPEG quality 15": lambda x: compressed(x, 15),
    "cropped to 0.9": lambda x: cropped(x, 0.9),
    "cropped to 0.8": lambda x: cropped(x, 0.8),
    "cropped to 0.8 off the middle": lambda x: cropped(x, 0.8, 0.2, 0.9),
    "cropped to 0.8 elsewhere": lambda x: cropped(x, 0.8, 0.7, 0.35),
    "cropped to 0.7": lambda x: cropped(x, 0.7),
    "turned 90": lambda x: np.rot90(x),
    "turned 180": lambda x: np.rot90(x, 2),
    "turned 7": lambda x: turned(x, 7),
    "turned -15": lambda x: turned(x, -15),
    "turned 40": lambda x: turned(x, 40),
    "mirrored": lambda x: x[:, ::-1],
    "flipped": lambda x: x[::-1],
    "brighter, contrast 0.7": lambda x: toned(x, 0.7, 40),
    "darker by half": lambda x: toned(x, 0.5),
    "gamma 0.7": lambda x: toned(x, 1, 0, 0.7),
    "gamma 1.5": lambda x: toned(x, 1, 0, 1.5),
    "gamma 2": lambda x: toned(x, 1, 0, 2),
    "squeezed to 0.85": lambda x: scaled(x, len(x), round(0.85 * len(x))),
    "grey": grey,
    "mirrored, turned 90, JPEG 40": lambda x: compressed(np.rot90(x[:, ::-1]), 40),
    "turned 5, gamma 1.5, cropped to 0.85": lambda x: cropped(toned(turned(x, 5), 1, 0, 1.5), 0.85),
    "mirrored, cropped to 0.85, 160 pixels, JPEG 40": lambda x: compressed(
        scaled(cropped(x[:, ::-1], 0.85), 160), 40
    ),
    "turned 270, cropped to 0.9, darker": lambda x: toned(cropped(np.rot90(x, 3), 0.9), 0.6),
}


def write_copies(folder: Path, originals: list[Shards]) -> Counter[str]:
    """Write EACH datasets of a changed copy of each chosen original; its split names the change."""
    chosen = np.random.default_rng(0)
    places = [(dataset, i) for dataset in originals for i in range(len(dataset))]
    names, count = list(CHANGES), Counter[str]()
    numbers = chosen.choice(len(places), PHOTOGRAPHS, replace=False)
    for k in range(EACH):
        with ShardWriter(folder / f"copies{k}", f"copies{k}") as writer:
            for number, place in enumerate(numbers):
                dataset, index = places[place]
                jpeg, metadata = dataset.read(index)
                name = names[(number * EACH + k) % len(names)]
                image = CHANGES[name](simplejpeg.decode_jpeg(jpeg, "RGB"))
                found = field_photograph(encode(np.ascontiguousarray(image), 90), 512).image_HWC
                facts = {
                    "dataset": f"copies{k}",
                    "source": f"{dataset.name}/{dataset.key(index)}",
                    "split": name,
                    "width": len(found),
                    "height": len(found),
                    "sha256": f"{number * EACH + k:064x}",
                    "phash": perceptual_hash(found),
                }
                writer.add(f"{number:04d}", encode(found, 95), metadata | facts)
                count[name] += 1
    return count


@pytest.mark.slow
def test_copies_are_found_and_what_is_found_are_copies(tmp_path: Path) -> None:
    for name, root in ROOTS.items():
        build(Build(dataset=name, root=real(root), out=tmp_path / name, workers=2), progress=False)
    originals = [Shards(tmp_path / name) for name in ROOTS]
    count = write_copies(tmp_path, originals)
    directories = tuple(tmp_path / name for name in ROOTS)
    against = tuple(tmp_path / f"copies{k}" for k in range(EACH))
    findings = check(
        CheckRequest(directories=directories, against=against, out=tmp_path / "out"),
        progress=False,
    )
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    same: defaultdict[str, set[str]] = defaultdict(set)  # real copies among the originals
    for row in rows:
        if row["kind"] in ("exact", "near") and row["where"] != "with --against":
            a, b = (f"{row[f'dataset_{side}']}/{row[f'key_{side}']}" for side in "ab")
            same[a].add(b)
            same[b].add(a)
    found: dict[str, Counter[str]] = {"near": Counter(), "unclear": Counter()}
    wrong = []
    for row in rows:
        if row["where"] != "with --against":
            continue
        original = f"{row['dataset_a']}/{row['key_a']}"
        if original == row["source_b"]:
            found[row["kind"]][row["split_b"]] += 1
        elif row["kind"] == "near" and row["source_b"] not in same[original]:
            wrong.append((original, row["source_b"], row["split_b"], row["score"]))
    print()  # noqa: T201
    for name, all_of_them in count.items():
        shares = [f"{100 * found[kind][name] / all_of_them:5.1f}" for kind in found]
        print(f"| {name} | {all_of_them} | {' | '.join(shares)} |")  # noqa: T201
    total, near = sum(count.values()), sum(found["near"].values())
    print(f"| all | {total} | {100 * near / total:.1f} |; wrong: {len(wrong)} {wrong[:20]}")  # noqa: T201
    print(findings.counts, findings.seconds)  # noqa: T201
    assert near > 0.9 * total
    assert len(wrong) <= 0.01 * near

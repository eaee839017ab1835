"""A folder of class folders is a dataset: its splits are drawn by patient, and printed."""

import logging
from collections import Counter
from pathlib import Path

import pytest

from maskedclip.data.labelled import divide, labelled
from maskedclip.data.storage.shards import Shards
from maskedclip.finetune.command import read_evaluate, read_finetune
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.image_folders import as_shards, tree_of
from maskedclip.shards.phantoms.phantom import draw

CLASSES = ("severe", "mild", "none")


def plant(root: Path, classes: tuple[str, ...] = CLASSES, images: int = 12) -> Path:
    """Write both eyes of patients into folders of classes; of every third one into two folders."""
    for i, name in enumerate(classes):
        for j in range(images):
            eye = j % 2
            other = classes[(i + 1) % len(classes)] if eye and j % 6 == 1 else name
            (root / other).mkdir(parents=True, exist_ok=True)
            file = root / other / f"Patient{100 * i + j // 2:03d}_{('OD', 'OS')[eye]}.jpg"
            file.write_bytes(encode(draw(1000 * i + j, 32).image_HWC, 90))
    return root


def test_classes_stand_in_their_order_and_no_patient_in_two_splits(tmp_path: Path) -> None:
    dataset = Shards(as_shards(plant(tmp_path / "clinic")))
    task = labelled(dataset)
    assert task.classes == ("none", "mild", "severe")
    parts = divide(task)
    assert all(parts.values())
    assert sum(map(len, parts.values())) == 36
    split_of = {(s.patient, name) for name, samples in parts.items() for s in samples}
    assert all(patient for patient, _ in split_of)
    assert max(Counter(patient for patient, _ in split_of).values()) == 1
    assert len(split_of) == 18


def test_splits_are_printed_with_classes_counts_and_patients(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        out = as_shards(plant(tmp_path / "clinic"))
    assert out.parent == tmp_path / "clinic_shards"  # beside it
    parts = divide(labelled(Shards(out)))
    of_none = "/".join(str(sum(s.label == 0 for s in samples)) for samples in parts.values())
    assert f"3 classes, train/val/test: none {of_none}, mild " in caplog.text
    patients = len({sample.patient for sample in parts["test"]})
    assert f"test {len(parts['test'])} images of {patients} patients" in caplog.text
    assert "test and val drawn here, by patient" in caplog.text


def test_it_is_built_once_and_again_where_a_file_changes(tmp_path: Path) -> None:
    root = plant(tmp_path / "clinic")
    first = as_shards(root)
    assert as_shards(root) == first
    (root / "mild" / "Patient900_OD.jpg").write_bytes(encode(draw(9, 32).image_HWC, 90))
    assert as_shards(root) != first


def test_finetune_and_evaluate_take_it(tmp_path: Path) -> None:
    root = str(plant(tmp_path / "clinic"))
    assert read_finetune("", ["random", "--dataset", root]).config.dataset == root
    assert read_evaluate("", ["random", "--datasets", root]).datasets == (root,)


def test_what_cannot_be_classes_is_refused_in_one_line(tmp_path: Path) -> None:
    image = encode(draw(0, 32).image_HWC, 90)
    loose = plant(tmp_path / "loose", images=2)
    (loose / "map.jpg").write_bytes(image)
    with pytest.raises(ValueError, match=r"1 images, such as map\.jpg, lie in none of them"):
        tree_of(loose)
    deep = plant(tmp_path / "deep", images=2)
    (deep / "mild" / "more").mkdir()
    (deep / "mild" / "more" / "a.jpg").write_bytes(image)
    with pytest.raises(ValueError, match=r"such as mild/more/a\.jpg, lie in none of them"):
        tree_of(deep)
    with pytest.raises(ValueError, match="original is the name of none"):
        tree_of(plant(tmp_path / "download", ("fundus", "original"), 2))
    with pytest.raises(ValueError, match="neither shards"):
        tree_of(plant(tmp_path / "one", ("sick",), 2))
    with pytest.raises(ValueError, match="neither shards"):
        tree_of(plant(tmp_path / "splits", ("val", "test"), 2))

"""A tree of images in folders is a dataset: built once, with the split of its folders."""

import os
from pathlib import Path

import pytest

from maskedclip.data.labelled import divide, labelled
from maskedclip.data.storage.shards import Shards
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.image_folders import TASK, as_shards, tree_of
from maskedclip.shards.phantoms.phantom import draw

NAMES = {"train": 8, "val": 4, "test": 4}


def plant(root: Path, splits: dict[str, int], classes: tuple[str, ...] = ("sick", "well")) -> Path:
    """Write so many images a class and split, with endings of every kind."""
    endings = (".jpg", ".JPG", ".Jpeg", ".jpeg")
    for split, count in splits.items():
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image_HWC = draw(i, 64).image_HWC
                file = root / split / name / f"{Path(split).name}{i}{endings[i % 4]}"
                file.write_bytes(encode(image_HWC, 90))
    return root


def sizes(directory: Path) -> dict[str, int]:
    parts = divide(labelled(Shards(directory), TASK))
    return {name: len(samples) for name, samples in parts.items()}


def test_a_tree_keeps_its_split_and_its_classes_whatever_the_endings(tmp_path: Path) -> None:
    tree = plant(tmp_path / "own", {"train": 8, "Validation": 4, "TEST": 4})
    (tree / "readme.txt").write_text("a split")
    directory = as_shards(tree)
    assert directory.parent == tmp_path / "own_shards"
    assert sizes(directory) == {"train": 16, "val": 8, "test": 8}
    shards = Shards(directory)
    assert (shards.name, labelled(shards).classes) == ("own", ("sick", "well"))


def test_where_val_is_missing_it_is_parted_off_train_by_the_rule(tmp_path: Path) -> None:
    tree = plant(tmp_path / "own", {"train": 10, "test": 4})
    assert sizes(as_shards(tree)) == {"train": 16, "val": 4, "test": 8}


def test_the_same_tree_is_not_built_again_and_a_changed_one_is(tmp_path: Path) -> None:
    tree = plant(tmp_path / "own", NAMES)
    first = as_shards(tree)
    before = (first / "manifest.json").stat().st_mtime_ns
    assert as_shards(tree) == first
    assert (first / "manifest.json").stat().st_mtime_ns == before
    (tree / "train" / "sick" / "train0.jpg").unlink()
    second = as_shards(tree)
    assert second != first
    assert sizes(second)["train"] == sizes(first)["train"] - 1


def test_a_tree_in_the_folders_that_archives_add_is_found(tmp_path: Path) -> None:
    plant(tmp_path / "Retina" / "Retina", NAMES)
    found = tree_of(tmp_path / "Retina")
    assert found is not None
    assert (found.root, found.name) == (tmp_path / "Retina" / "Retina", "Retina")


def test_patients_of_file_names_are_read_and_those_of_two_splits_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):
        split, name = ("train", "train", "train", "test")[number // 2], ("ill", "well")[number % 2]
        place = tmp_path / "own" / split / name
        place.mkdir(parents=True, exist_ok=True)
        patient = number % 2 if number >= 6 else number
        for eye in ("OD", "OS"):  # of the patients 0 and 1 the second visit is in test
            file = place / f"P{patient}_{eye}_{number}.jpg"
            file.write_bytes(encode(draw(2 * number + (eye == "OS"), 64).image_HWC, 90))
    directory = as_shards(tmp_path / "own")
    assert "patients read from file names: 6 patients of 16 images, such as" in caplog.text
    assert "--classes class --patient_pattern=... to change" in caplog.text
    assert "2 of 6 patients stand in more than one split; the splits are kept" in caplog.text
    samples = labelled(Shards(directory)).samples
    assert len({sample.patient for sample in samples}) == 6
    assert as_shards(tmp_path / "own") == directory


def test_shards_are_taken_as_they_are(tmp_path: Path, phantoms: dict[str, Path]) -> None:
    assert as_shards(phantoms["heldout"]) == phantoms["heldout"]
    assert as_shards(tmp_path / "nowhere") == tmp_path / "nowhere"  # Shards says that it is missing


def test_a_tree_that_cannot_be_written_beside_goes_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = plant(tmp_path / "disk" / "own", NAMES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree.parent.chmod(0o500)
    try:
        if os.access(tree.parent, os.W_OK):
            pytest.skip("this user may write everywhere, as root may")
        assert as_shards(tree).is_relative_to(tmp_path / "cache" / "maskedclip" / "own_shards")
    finally:
        tree.parent.chmod(0o700)


def test_a_tree_is_built_of_the_files_that_it_lists_and_the_rest_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = plant(tmp_path / "own", NAMES)
    clean = as_shards(plant(tmp_path / "clean" / "own", NAMES))
    beside = ("external_test", "dev", "train_50", "results", "backup/train", ".Trash-1000/train")
    for folder in beside:
        plant(tree, {folder: 3})
    (tree / "train/sick/@eaDir/train0.jpg").mkdir(parents=True)
    thumbnail = tree / "train/sick/@eaDir/train0.jpg/SYNOPHOTO_THUMB_M.jpg"
    thumbnail.write_bytes((tree / "train/sick/train0.jpg").read_bytes())
    directory = as_shards(tree)
    assert sizes(directory) == sizes(clean) == {"train": 16, "val": 8, "test": 8}
    shards = Shards(directory)
    sources = {shards.metadata(i)["source"] for i in range(len(shards))}
    assert {source.split("/")[0] for source in sources} == {"train", "val", "test"}
    assert labelled(shards).classes == ("sick", "well")
    for folder in beside:
        assert f"{folder.split('/')[0]}: 6 images" in caplog.text
    caplog.clear()
    assert as_shards(tree) == directory
    assert "external_test" not in caplog.text


def test_shards_that_held_the_folders_beside_a_tree_are_not_taken(tmp_path: Path) -> None:
    tree = plant(tmp_path / "own", NAMES)
    before = tree_of(tree)
    plant(tree, {"dev": 1})
    after = tree_of(tree)
    assert before is not None
    assert after is not None
    assert before.fingerprint != after.fingerprint


def test_a_tree_beside_what_an_archive_program_left_is_found(tmp_path: Path) -> None:
    plant(tmp_path / "Retina" / "Retina", NAMES)
    plant(tmp_path / "Retina" / "__MACOSX", {"Retina": 1})
    found = tree_of(tmp_path / "Retina")
    assert found is not None
    assert found.root == tmp_path / "Retina" / "Retina"


def test_what_is_neither_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "flat" / "sick").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"neither shards .* nor a tree"):
        as_shards(tmp_path / "flat")
    deep = plant(tmp_path / "deep", NAMES)
    (deep / "train" / "sick" / "patient").mkdir()
    (deep / "train" / "sick" / "train0.jpg").rename(deep / "train" / "sick" / "patient" / "0.jpg")
    with pytest.raises(ValueError, match="lies 3 folders deep"):
        as_shards(deep)
    odd = plant(tmp_path / "odd", NAMES)
    (odd / "test" / "sick").rename(odd / "test" / "ill")
    with pytest.raises(ValueError, match="test/ill has no folder of that name in train/"):
        as_shards(odd)
    one = plant(tmp_path / "one", NAMES, ("sick",))
    with pytest.raises(ValueError, match="train/ holds images of 1 classes"):
        as_shards(one)
    for folder in ("flat", "deep", "odd", "one"):
        assert not (tmp_path / f"{folder}_shards").exists()


def test_folders_that_differ_in_case_or_blanks_are_one_class_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = plant(tmp_path / "own", {"train": 4}, ("No DR", "severe"))
    plant(tree, {"train": 2}, ("no_dr",))
    plant(tree, {"val": 3, "test": 3}, ("No_DR", "Severe"))
    directory = as_shards(tree)
    assert sizes(directory) == {"train": 10, "val": 6, "test": 6}
    assert labelled(Shards(directory)).classes == ("No_DR", "Severe")
    assert "spellings joined: 2" in caplog.text


def test_trees_of_one_spelling_are_as_they_were(tmp_path: Path) -> None:
    tree = plant(tmp_path / "own", NAMES, ("01", "02"))
    assert labelled(Shards(as_shards(tree))).classes == ("01", "02")

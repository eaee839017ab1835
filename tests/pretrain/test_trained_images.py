"""Test images among those of pre-training are found by their content, and can be left out."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.config import Config, override
from maskedclip.data.labelled import labelled
from maskedclip.data.pretraining_images import (
    PRETRAINING_IMAGES,
    PretrainingImages,
    SeenImages,
    read_images,
)
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.distributed import process_group
from maskedclip.evaluate.protocols import evaluate
from maskedclip.metrics.results import read_rows, table
from maskedclip.pretrain.loop import claim, pretrain
from maskedclip.pretrain.sources import keep_tested, read_sources
from maskedclip.pretrain.trained_images import images_behind, keep_images
from maskedclip.shards.image_folders import as_shards
from maskedclip.shards.make import ShardRequest, build
from tests.conftest import a_small_run

CLASSES, EACH = ("normal", "glaucoma"), 10


def photographs(root: Path, splits: dict[str, range]) -> Path:
    """Write a tree SPLIT/CLASS/NUMBER.jpg of noise; the same number and class, the same file."""
    for split, numbers in splits.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in numbers:
                generator = np.random.default_rng([label, number])
                pixels_HWC = generator.integers(140, 160, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels_HWC).save(folder / f"{number}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "clinic"
    return photographs(root, {"train": range(10), "val": range(10, 13), "test": range(13, 18)})


def built(root: Path, out: Path, name: str, size: int) -> Path:
    build(
        ShardRequest(
            dataset="folder", root=root, out=out, name=name, size=size, classes="class", workers=1
        )
    )
    return out


def run_on(small: Config, *directories: Path, **changes: object) -> Config:
    data = {"data.unpaired": tuple(map(str, directories)), "data.paired_batch": 0}
    losses = {"loss.clip": 0.0, "loss.mfd": 0.0, "model.bridge_depth": 0, "optim.steps": 2}
    return override(small, data | losses | changes)


@pytest.fixture(scope="module")
def trained(
    tree: Path, phantoms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run of two steps on the tree, as dataset alpha, and its shards."""
    root = tmp_path_factory.mktemp("trained")
    shards = built(tree, root / "a", "alpha", 48)
    small = a_small_run(phantoms, root)
    return pretrain(run_on(small, shards)), shards


def listed(config: Config) -> PretrainingImages:
    """Return the list of a run that begins and ends before its first step."""
    with process_group():
        sources = read_sources(config)
        claim(config)
        keep_tested(sources, config)
        return keep_images(config, sources)


def seen(images: PretrainingImages, directory: Path) -> SeenImages:
    dataset = Shards(directory)
    test = division_of(dataset, labelled(dataset, "")).parts["test"]
    return images.seen(dataset, [sample.index for sample in test])


def tar_of(root: Path, path: Path, keep: Callable[[Path], bool], facts: bool) -> Path:
    """Write the files of a tree as somebody else's WebDataset tar, with a cls or a json."""
    with tarfile.open(path, "w") as tar:
        for number, file in enumerate(sorted(p for p in root.rglob("*.jpg") if keep(p))):
            label, split = file.parent.name, file.parts[-3]
            text = json.dumps({"labels": {"class": label}, "split": split}) if facts else label
            for ending, content in (
                ("jpg", file.read_bytes()),
                ("json" if facts else "cls", text.encode()),
            ):
                member = tarfile.TarInfo(f"x{number:03d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_a_test_image_is_found_under_another_name_at_another_size_in_a_subset_a_tar_and_a_tree(
    small: Config, tree: Path, tmp_path: Path
) -> None:
    images = listed(run_on(small, built(tree, tmp_path / "a", "alpha", 48)))
    whole = SeenImages("alpha", 10, "")
    assert seen(images, built(tree, tmp_path / "b", "beta", 32)) == whole
    assert seen(images, as_shards(tree)) == whole
    assert seen(images, tar_of(tree, tmp_path / "theirs.tar", lambda _: True, True)) == whole
    some = photographs(tmp_path / "some", {"train": range(40, 45), "test": range(16, 22)})
    assert seen(images, built(some, tmp_path / "c", "gamma", 48)) == SeenImages("alpha", 4, "")
    others = photographs(tmp_path / "others", {"train": range(50, 55), "test": range(60, 64)})
    assert seen(images, built(others, tmp_path / "d", "alpha", 48)) == SeenImages("", 0, "")


def test_a_tar_of_others_in_pretraining_is_known_by_its_files(
    small: Config, tree: Path, tmp_path: Path
) -> None:
    tar = tar_of(tree, tmp_path / "theirs.tar", lambda file: "normal" in file.parts, False)
    images = listed(run_on(small, tar))
    assert seen(images, built(tree, tmp_path / "b", "beta", 48)) == SeenImages("theirs", 5, "")
    copy = shutil.copy(tar, tmp_path / "copy.tar")
    dataset = Shards(copy)
    assert images.seen(dataset, range(len(dataset))) == SeenImages("theirs", 18, "")


def test_rows_and_their_table_say_how_many_test_images_were_in_pretraining(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    shards = trained[1]
    run = shutil.copytree(trained[0], tmp_path / "run")
    rows = evaluate(run, [(shards, "")], ["knn"], run)
    assert {(row["seen"], row["seen_images"]) for row in rows} == {("alpha", 10)}
    lines = table(rows).splitlines()
    assert lines[2] == "\u2020 alpha: 10 of 10 test images were in pre-training (alpha)"
    assert lines[1].count("\u2020") == 4  # AUROC, average precision, kappa, F1
    # rows of before say it when they are asked for again
    path = run / "results.jsonl"
    old = [{k: v for k, v in row.items() if k != "seen_images"} | {"seen": ""} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    assert evaluate(run, [(shards, "")], ["knn"], run) == rows == read_rows(run)


def test_an_older_run_is_known_by_its_shards_while_they_are_there(
    trained: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    shards, other = trained[1], built(tree, tmp_path / "b", "beta", 32)
    run = shutil.copytree(trained[0], tmp_path / "run")
    (run / PRETRAINING_IMAGES).unlink()
    shutil.move(shards, tmp_path / "elsewhere")
    found = seen(images_behind(run), other)
    assert found[:2] == ("", None)
    assert found.note.startswith("not known: the shards of pre-training are not here")
    shutil.move(tmp_path / "elsewhere", shards)
    assert seen(images_behind(run), other) == SeenImages("alpha", 10, "")
    assert (run / PRETRAINING_IMAGES).is_file()  # read once
    (run / PRETRAINING_IMAGES).write_bytes(b"x" * 100)  # damaged: made again
    assert seen(images_behind(run), other).images == 10


def test_weights_alone_carry_names_and_counts_and_a_run_that_begins_from_them_too(
    trained: tuple[Path, Path], small: Config, tmp_path: Path
) -> None:
    run, shards = trained
    alone = shutil.copy(run / "encoder.safetensors", tmp_path / "encoder.safetensors")
    (dataset,) = images_behind(alone).datasets
    assert (dataset.name, dataset.images, dataset.hash_K) == ("alpha", 36, None)
    found = seen(images_behind(alone), shards)
    assert found.names == "alpha"
    assert found.images is None
    assert "not beside the weights" in found.note
    others = photographs(tmp_path / "others", {"train": range(50, 55), "test": range(60, 64)})
    new = built(others, tmp_path / "n", "new", 48)
    second = run_on(small, new, name="second", init_from=str(run))
    assert seen(listed(second), shards) == SeenImages("alpha", 10, "")
    assert [one.name for one in listed(second).datasets] == ["alpha", "new"]


def test_the_list_of_a_run_is_checked_before_it_is_believed(
    small: Config, tree: Path, tmp_path: Path
) -> None:
    config = run_on(small, built(tree, tmp_path / "a", "alpha", 48))
    images = listed(config)
    again = read_images(config.directory)
    assert again is not None
    assert again.facts() == images.facts()
    path = config.directory / PRETRAINING_IMAGES
    content = bytearray(path.read_bytes())
    assert len(content) < 36 * 16 + 600
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_images(config.directory)

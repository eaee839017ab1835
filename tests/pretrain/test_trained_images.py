"""Test images among those of pre-training are found by their content, and can be left out."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskedclip.config import Config, LaunchConfig, override
from maskedclip.data.labelled import labelled
from maskedclip.data.pretraining_images import (
    PRETRAINING_IMAGES,
    PretrainingImages,
    SeenImages,
    read_images,
)
from maskedclip.data.source import Source
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards
from maskedclip.doctor import run_inputs
from maskedclip.engine.distributed import process_group
from maskedclip.evaluate.protocols import evaluate
from maskedclip.finetune.measured_rows import measured_rows
from maskedclip.jobs.submit import plan
from maskedclip.metrics.results import read_rows, table
from maskedclip.metrics.scores import METRICS
from maskedclip.plan.cost import plan as cost
from maskedclip.pretrain.loop import claim, pretrain
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.preflight import pretraining_on_tests, warn_of_tests
from maskedclip.pretrain.sources import Batches, keep_tested, read_sources
from maskedclip.pretrain.trained_images import LEFT_OUT, images_behind, keep_images
from maskedclip.report.build import report
from maskedclip.report.command import ReportConfig
from maskedclip.report.compare_methods import compare
from maskedclip.shards.image_folders import as_shards
from maskedclip.shards.make import ShardRequest, build
from maskedclip.weights.export import export
from maskedclip.weights.model_card import measured_lines
from tests.conftest import a_small_run
from tests.streams import tokenize

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
    assert "\u2020 alpha: 10 of 10 test images were in pre-training (alpha)" in lines
    assert lines[1].count("\u2020") == 4  # AUROC, average precision, kappa, F1
    # rows of before say it when they are asked for again
    path = run / "results.jsonl"
    old = [{k: v for k, v in row.items() if k != "seen_images"} | {"seen": ""} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    assert {row["seen_images"] for row in measured_rows(run)} == {10}  # in the report, too
    again = evaluate(run, [(shards, "")], ["knn"], run)
    for found in (again, read_rows(run)):
        assert {(row["seen"], row["seen_images"]) for row in found} == {("alpha", 10)}


def test_every_table_page_figure_and_card_carries_the_dagger(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run = shutil.copytree(trained[0], tmp_path / "runs" / "own")
    rows = evaluate(run, [(trained[1], "")], ["knn"], run)
    bare_run = tmp_path / "runs" / "bare"
    evaluate("random", [(trained[1], "")], ["knn"], bare_run, size="micro", image_size=32)
    out = tmp_path / "out"
    report([tmp_path / "runs"], ReportConfig(out=str(out), protocol="knn", pictures=0))
    words = "10 of 10 test images were in pre-training (alpha)"
    for name, mark in (("table1.md", "\u2020"), ("table1.tex", r"$^\dagger$")):
        text = (out / name).read_text()
        assert f"{mark}own, alpha: {words}" in text.replace("\u2020 ", "\u2020")
        assert text.count(mark) == 2 + 2  # two metrics of one method, the caption, the footnote
    assert (out / "table1.csv").read_text().count(words) == 2
    page = (out / "index.html").read_text()
    assert "&dagger; own, alpha: " + words in page
    assert "\u2020 Test images were in pre-training (own)" in page  # below Figure 2
    own, bare = (
        (out / "runs" / f"{n}-alpha-class-knn-1-seed0.html") for n in ("own", "random_micro")
    )
    assert f"\u2020 {words}." in own.read_text()
    assert own.read_text().count("&dagger;") == len(METRICS)
    assert "&dagger;" not in bare.read_text()
    compared = compare(run, bare_run).splitlines()
    assert compared[1].split()[:2] == ["first\u2020", "second"]
    assert f"first: \u2020 alpha: {words}" in compared
    card = "\n".join(measured_lines(rows))
    assert f"- \u2020 alpha: {words}" in card
    assert card.count("\u2020 [") == len(METRICS)


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
    export(run, "timm", tmp_path / "timm")  # and so do exports for other libraries
    assert seen(images_behind(tmp_path / "timm" / "model.safetensors"), shards) == found
    card = (tmp_path / "timm" / "README.md").read_text()
    assert "Trained on alpha (unpaired): 36 images, no test image was left out." in card
    left_out = replace(images_behind(alone), datasets=(dataset._replace(tests_left_out=10),))
    assert seen(left_out, shards)[:2] == ("", None)
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


def keys_shown(config: Config, steps: int, *, first: int = 0) -> list[list[str]]:
    """Return dataset/key of the images of each step, as the run streams them."""
    with process_group():
        sources = read_sources(config)
        claim(config)
        keep_tested(sources, config)
        view = method_of(config).view(config)
        with Batches(config, sources, view, tokenize, torch.device("cpu")) as batches:
            batches.seek(first)
            return [batches.next().keys for _ in range(steps)]


def test_no_test_image_is_in_the_stream_when_they_are_left_out_whatever_it_is_called(
    small: Config, tree: Path, tmp_path: Path
) -> None:
    own = built(tree, tmp_path / "a", "alpha", 48)
    # training images of theirs are test images of alpha, and theirs has test images of its own
    theirs = photographs(tmp_path / "t", {"train": range(15, 25), "test": range(30, 34)})
    other = built(theirs, tmp_path / "b", "beta", 32)
    config = run_on(small, own, other, **{"data.leave_out_tests": True})
    steps = (36 + 28 - 10 - 6 - 8 + 3) // 4  # a pass of what is left, 4 a step
    shown = keys_shown(config, steps)
    names = {key for step in shown for key in step}
    sources = {}
    for directory in (own, other):
        dataset = Shards(directory)
        for index in range(len(dataset)):
            key, facts = dataset.key(index), dataset.metadata(index)
            sources[f"{dataset.name}/{key}"] = (facts["sha256"], facts["split"])
    tested = {sha256 for sha256, split in sources.values() if split == "test"}
    kept = {name for name, (sha256, _) in sources.items() if sha256 not in tested}
    assert len(tested) == 18
    assert len(kept) == 36 + 28 - 10 - 6 - 8
    assert names == kept  # all others are there, once an epoch
    # a resumed run streams the same, also where splits were written or removed meanwhile
    shutil.rmtree(own / "splits")
    assert keys_shown(config, steps - 2, first=2) == shown[2:]
    with (
        process_group(),
        pytest.raises(ValueError, match=r"holds a run with data\.leave_out_tests"),
    ):
        claim(run_on(small, own, other))
    images = listed(config)
    assert [one.tests_left_out for one in images.datasets] == [10, 14]
    assert seen(images, own) == seen(images, other) == SeenImages("", 0, "")


def test_test_images_of_named_datasets_alone_are_left_out(
    small: Config, tree: Path, tmp_path: Path
) -> None:
    own = built(tree, tmp_path / "a", "alpha", 48)
    named = photographs(tmp_path / "named", {"train": range(40, 44), "test": range(2)})
    changes = {"data.leave_out_tests_of": (str(named),)}  # a tree of images, as evaluation takes it
    images = listed(run_on(small, own, **changes))
    assert [one.images for one in images.datasets] == [36 - 4]
    assert seen(images, own).images == 10
    assert seen(images, as_shards(named)).images == 0


def test_a_run_without_it_streams_as_before(small: Config, tree: Path, tmp_path: Path) -> None:
    config = run_on(small, built(tree, tmp_path / "a", "alpha", 48))
    with process_group():
        _, source = read_sources(config)
    assert source is not None
    plain = Source("unpaired", source.datasets, config.seed, False)
    assert source.samples_at(0, 100) == plain.samples_at(0, 100)
    assert not (config.directory / LEFT_OUT).exists()


def test_test_images_in_the_sources_are_said_before_a_run_begins(
    small: Config, tree: Path, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    own = built(tree, tmp_path / "a", "alpha", 48)
    config = run_on(small, own)
    line = pretraining_on_tests(config)
    assert f"in pre-training: 10 of {own};" in line
    assert "--data.leave_out_tests keeps them out" in line
    assert line in plan(config, LaunchConfig(dry_run=True), "local", 1, tmp_path)
    assert pretraining_on_tests(override(config, {"data.leave_out_tests": True})) == ""
    assert pretraining_on_tests(override(config, {"data.leave_out_tests_of": (str(own),)})) == ""
    assert pretraining_on_tests(run_on(small, phantoms["unpaired"])) == ""  # states none
    judged = run_inputs.test_images(config)
    assert (judged.state, f"10 of {own}" in judged.message) == ("warning", True)


def test_a_run_counts_the_test_images_that_it_is_about_to_train_on(
    small: Config, tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar = tar_of(tree, tmp_path / "theirs.tar", lambda _: True, True)  # it has no manifest
    own = built(tree, tmp_path / "a", "alpha", 48)
    others = photographs(tmp_path / "others", {"train": range(50, 55), "test": range(60, 64)})
    new = built(others, tmp_path / "n", "new", 48)
    for number, (sources, changes, line) in enumerate(
        (
            ((tar, new), {}, f"in pre-training: 10 of {tar}, 8 of {new};"),
            ((tar, new), {"data.leave_out_tests_of": (str(own),)}, f"in pre-training: 8 of {new};"),
            ((own,), {"data.leave_out_tests_of": (str(tar),)}, ""),
            ((new,), {"after.datasets": (str(own),)}, f"in pre-training: 8 of {new};"),
            ((own,), {"after.datasets": (str(tar),)}, "10 of 10 test images were in pre-training"),
        )
    ):
        caplog.clear()
        config = run_on(small, *sources, name=f"run{number}", **changes)
        images = listed(config)
        with process_group():
            warn_of_tests(config, read_sources(config), images)
        assert line in caplog.text
        assert bool(line) == ("in pre-training" in caplog.text)


def test_the_plan_counts_what_takes_part(small: Config, tree: Path, tmp_path: Path) -> None:
    config = run_on(small, built(tree, tmp_path / "a", "alpha", 48))
    left = override(config, {"data.leave_out_tests": True})
    found = [cost(one, nodes=1, gpus=1, gpu="a100-80") for one in (config, left)]
    assert [one.images[1] for one in found] == [36, 26]
    assert any("without 10 test images" in note for note in found[1].notes)


def test_phantoms_of_one_number_are_the_same_at_every_size(small: Config, tmp_path: Path) -> None:
    for size, name in ((48, "one"), (64, "two")):
        build(
            ShardRequest(
                dataset="phantom", out=tmp_path / name, name=name, size=size, count=20, workers=1
            )
        )
    images = listed(run_on(small, tmp_path / "one"))
    two = Shards(tmp_path / "two")
    assert images.seen(two, range(20)) == SeenImages("one", 20, "")

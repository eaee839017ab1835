"""Splits and label fractions: published ones are kept, the others divide patients, not images."""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskedclip.data.augmentation import augmentation
from maskedclip.data.labelled import Task, divide, in_order, labelled, share_of
from maskedclip.data.labelled_views import preparation, prepared_batches, seeded, training_batches
from maskedclip.data.splits import division_of, write_split
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.shards.building.prepare_sample import encode


def build(directory: Path, samples: Sequence[dict[str, Any]]) -> Shards:
    generator = np.random.default_rng(0)
    with ShardWriter(directory, directory.name) as writer:
        for i, metadata in enumerate(samples):
            image_HWC = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            facts = {"sha256": f"file{i}"} | metadata
            writer.add(f"s{i:04d}", encode(image_HWC, 90), facts)
    return Shards(directory)


def graded(grade: object, **facts: Any) -> dict[str, Any]:
    return {"labels": {"grade": str(grade)}} | facts


def keys(samples: Sequence[Any]) -> set[str]:
    return {sample.key for sample in samples}


def divided(task: Task) -> dict[str, list[Any]]:
    return divide(task)


def test_an_official_test_split_is_kept_and_validation_comes_from_training(tmp_path: Path) -> None:
    samples = [graded(i % 3, split="train") for i in range(60)]
    samples += [graded(i % 3, split="test") for i in range(12)]
    parts = divided(labelled(build(tmp_path / "idrid", samples)))
    assert keys(parts["test"]) == {f"s{i:04d}" for i in range(60, 72)}
    # ceil(0.2 n) of each class of 20
    assert Counter(s.label for s in parts["val"]) == {0: 4, 1: 4, 2: 4}
    assert len(parts["train"]) == 48


def test_without_a_test_split_the_rule_is_retfounds(tmp_path: Path) -> None:
    samples = [graded("a") for _ in range(23)] + [graded("b") for _ in range(11)]
    parts = divided(labelled(build(tmp_path / "d", samples)))
    assert Counter(s.label for s in parts["test"]) == {0: 7, 1: 4}  # ceil(0.3 n)
    assert Counter(s.label for s in parts["val"]) == {0: 4, 1: 2}  # ceil(0.2 of the rest)


def test_a_patient_is_in_one_split_alone(tmp_path: Path) -> None:
    samples = [graded(i % 2, patient=f"p{i // 3}") for i in range(120)]
    parts = divided(labelled(build(tmp_path / "d", samples)))
    patients = [{s.patient for s in samples} for samples in parts.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 40
    assert all(patients)


def test_copies_of_one_file_are_in_one_split_alone(tmp_path: Path) -> None:
    samples = [graded(i % 2, sha256=f"f{i // 4}") for i in range(80)]
    parts = divided(labelled(build(tmp_path / "d", samples)))
    units = [{s.unit for s in samples} for samples in parts.values()]
    assert sum(map(len, units)) == len(set.union(*units)) == 20


def test_an_image_without_a_split_whose_patient_is_tested_takes_no_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [graded(i % 2, patient=f"t{i // 2}", split="test") for i in range(20)]
    samples += [graded(i % 2, patient=f"p{i // 2}", split="train") for i in range(40)]
    samples += [
        graded(i % 2, patient=patient) for i, patient in enumerate(("t0", "t3", "p1", "new"))
    ]
    task = labelled(dataset := build(tmp_path / "d", samples))
    parts = divide(task)
    assert keys(parts["test"]) == {f"s{i:04d}" for i in range(20)}
    assert keys(parts["train"]) | keys(parts["val"]) == {
        f"s{i:04d}" for i in (*range(20, 60), 62, 63)
    }
    assert (
        "2 images without a split are of patients, or copies of images, in a published"
        in caplog.text
    )
    write_split(path := tmp_path / "own.csv", task, parts)
    assert path.read_text().count(",none,") == 2
    again = division_of(dataset, task, path).parts
    assert {name: keys(own) for name, own in again.items()} == {
        name: keys(own) for name, own in parts.items()
    }


def test_other_names_of_the_validation_split_are_understood(tmp_path: Path) -> None:
    names = ["train", "validation", "valid", "test"]
    samples = [graded(i % 2, split=names[i // 2 % 4]) for i in range(16)]
    parts = divided(labelled(build(tmp_path / "d", samples)))
    assert {name: len(part) for name, part in parts.items()} == {"train": 4, "val": 8, "test": 4}


def test_a_smaller_fraction_is_part_of_a_larger_one_and_has_every_class(tmp_path: Path) -> None:
    samples = [graded(0) for _ in range(100)] + [graded(1) for _ in range(30)] + [graded(2)] * 3
    task = labelled(build(tmp_path / "d", samples))
    tenth, fifth = share_of(task.samples, 0.1, 7), share_of(task.samples, 0.2, 7)
    assert keys(tenth) < keys(fifth)
    assert Counter(s.label for s in tenth) == {0: 10, 1: 3, 2: 1}
    assert share_of(task.samples[::-1], 0.1, 7)[::-1] == tenth  # the order plays no part
    assert keys(share_of(task.samples, 0.1, 8)) != keys(tenth)
    assert share_of(task.samples, 1.0, 7) == task.samples


def test_classes_that_are_numbers_are_in_the_order_of_numbers() -> None:
    assert in_order({"10", "9", "0.5"}) == ("0.5", "9", "10")
    assert in_order({"normal", "10", "9"}) == ("9", "10", "normal")


def test_samples_without_this_label_take_no_part(tmp_path: Path) -> None:
    samples = [graded(i % 2) for i in range(6)] + [{"labels": {"other": "x"}}, {}]
    task = labelled(build(tmp_path / "d", samples), "grade")
    assert (len(task.samples), task.classes) == (6, ("0", "1"))


def test_what_cannot_be_divided_is_refused_in_one_line(tmp_path: Path) -> None:
    dataset = build(tmp_path / "d", [graded(i % 2, split="train") for i in range(8)])
    with pytest.raises(ValueError, match="no task 'grades'; did you mean grade"):
        labelled(dataset, "grades")
    with pytest.raises(ValueError, match="no sample has a label"):
        labelled(build(tmp_path / "none", [{}]))
    gone = build(tmp_path / "gone", [graded(0), graded(1)])
    for tar in gone.directory.glob("*.tar"):
        tar.unlink()
    with pytest.raises(ValueError, match=r"none of its 2 samples can be read, the first: .*\.tar"):
        labelled(Shards(gone.directory))
    with pytest.raises(ValueError, match="is in split 'fold1'"):
        labelled(build(tmp_path / "odd", [graded(0, split="fold1")]))
    samples = [graded(i % 2, split="train") for i in range(8)] + [graded(0, split="val")]
    with pytest.raises(ValueError, match="1 samples of 1 classes are left for val"):
        divided(labelled(build(tmp_path / "few", samples)))


def test_a_test_split_of_one_class_is_kept_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [graded(i % 2, split="train") for i in range(8)] + [graded(0, split="test")]
    assert len(divided(labelled(build(tmp_path / "one", samples)))["test"]) == 1
    assert "the test split has one class" in caplog.text


def batches(
    task: Task,
    dataset: Shards,
    workers: int,
    seed: int = 0,
    first_epoch: int = 0,
    image_size: int = 32,
) -> list[Any]:
    return list(
        training_batches(
            dataset,
            task.samples,
            augmentation(32),
            batch=4,
            epochs=range(first_epoch, 2),
            seed=seed,
            workers=workers,
            image_size=image_size,
        )
    )


def test_augmented_batches_are_the_same_for_every_number_of_workers(tmp_path: Path) -> None:
    dataset = build(tmp_path / "d", [graded(i % 2) for i in range(6)])
    task = labelled(dataset)
    alone, shared = batches(task, dataset, 0), batches(task, dataset, 2)
    assert [len(views.samples) for views in alone] == [4, 2, 4, 2]  # the last one is kept
    for one, other in zip(alone, shared, strict=True):
        assert one.samples == other.samples
        assert torch.equal(one.image_BCHW, other.image_BCHW)
    for epoch in (alone[:2], alone[2:]):
        assert sorted(s.key for v in epoch for s in v.samples) == sorted(keys(task.samples))
    for one, other in zip(alone[2:], batches(task, dataset, 0, first_epoch=1), strict=True):
        assert torch.equal(one.image_BCHW, other.image_BCHW)  # an epoch begins anywhere
    elsewhere = batches(task, dataset, 0, seed=1)
    assert not torch.equal(alone[0].image_BCHW, elsewhere[0].image_BCHW)


def test_batches_that_shared_memory_has_no_room_for_go_through_pipes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = build(tmp_path / "d", [graded(i % 2) for i in range(6)])
    task = labelled(dataset)
    shared = batches(task, dataset, 1)
    assert "go through pipes" not in caplog.text
    piped = batches(task, dataset, 1, image_size=1_000_000)  # so it is said: TBs a batch
    assert "go through pipes" in caplog.text
    for one, other in zip(shared, piped, strict=True):
        assert one.samples == other.samples
        assert torch.equal(one.image_BCHW, other.image_BCHW)


def test_a_signal_to_all_processes_leaves_the_workers_at_work(tmp_path: Path) -> None:
    dataset = build(tmp_path / "d", [graded(i % 2) for i in range(40)])
    task = labelled(dataset)
    views = training_batches(
        dataset, task.samples, augmentation(32), batch=1, epochs=range(1), seed=0, workers=1
    )
    next(views)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGTERM)
    assert len(list(views)) == 39
    worker.join()
    assert worker.exitcode == 0


def test_seeding_for_a_sample_leaves_the_global_generators_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(5):
        torch.rand(7)
    assert torch.equal(torch.rand(2), expected)


def test_a_damaged_sample_is_left_out_of_its_batch_and_named(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "d", "d") as writer:
        for i in range(5):
            image_HWC = np.full((40, 40, 3), 50 * i, dtype=np.uint8)
            jpeg = encode(image_HWC, 90)
            writer.add(f"s{i}", jpeg[:100] if i == 3 else jpeg, graded(i % 2))
    dataset = Shards(tmp_path / "d")
    task = labelled(dataset)
    prepare = preparation(32)
    found = list(prepared_batches(dataset, task.samples, prepare=prepare, batch=2, threads=2))
    assert [s.key for views in found for s in views.samples] == ["s0", "s1", "s2", "s4"]
    assert [damage.key for views in found for damage in views.lost] == ["s3"]
    trained = batches(task, dataset, 0)
    assert [damage.key for views in trained for damage in views.lost] == ["s3", "s3"]
    assert sum(len(views.image_BCHW) for views in trained) == 8


def test_augmentation_at_its_strongest_still_shows_something() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    transform: Any = augmentation(32)
    operations = next(part.ops for part in transform.transforms if hasattr(part, "ops"))
    for operation in operations:
        operation.prob, operation.magnitude, operation.magnitude_std = 1.0, 10, 0
        changed_HWC = np.asarray(operation(Image.fromarray(image_HWC)))
        assert np.ptp(changed_HWC) > 0, operation.name

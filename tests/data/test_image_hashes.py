"""Which images of a dataset are tested on."""

from pathlib import Path

import numpy as np

from maskedclip.data import image_hashes
from maskedclip.data.labelled import labelled
from maskedclip.data.splits import division_of
from tests.data.test_labelled import build


def test_of_a_named_task_its_own_test_images_alone_are_counted(tmp_path: Path) -> None:
    labels = [{"grade": str(i % 3), "oedema": str(i % 2)} for i in range(60)]
    dataset = build(tmp_path / "own", [{"labels": label} for label in labels])
    own = {
        task: [
            sample.index for sample in division_of(dataset, labelled(dataset, task)).parts["test"]
        ]
        for task in ("grade", "oedema")
    }
    assert sorted(own["grade"]) != sorted(own["oedema"])  # each task draws its own
    for task, index_N in own.items():
        assert image_hashes.tested_indices(dataset, task).tolist() == sorted(index_N)
    both = np.union1d(own["grade"], own["oedema"])
    assert image_hashes.tested_indices(dataset, "").tolist() == both.tolist()


def test_published_test_images_without_a_label_are_tested_on_by_no_score(tmp_path: Path) -> None:
    bare = [{"labels": {}, "split": "test"} for _ in range(8)]  # as DRIVE's, of vessels alone
    assert image_hashes.tested_indices(build(tmp_path / "bare", bare), "").tolist() == []
    labelled_too = [{"labels": {"grade": str(i % 2)}, "split": "test"} for i in range(4)]
    some = build(tmp_path / "some", bare + labelled_too)
    assert image_hashes.tested_indices(some, "").tolist() == [8, 9, 10, 11]

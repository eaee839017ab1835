"""What cannot be measured when a run ends is refused before it begins."""

import io
import json
import shutil
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from maskedclip.config import Config, override
from maskedclip.data.labelled import divide, labelled
from maskedclip.data.splits import split_file, write_split
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.pretrain.preflight import check
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.dataset_names import refuse_one_name
from tests.kinds_of_tasks import write_ages


@pytest.fixture
def measured(small: Config, phantoms: dict[str, Path]) -> Config:
    return override(small, {"after.datasets": (str(phantoms["heldout"]),)})


def test_a_protocol_of_an_unknown_name_is_refused_with_the_nearest(measured: Config) -> None:
    with pytest.raises(ValueError, match=r"after.protocols: 'logistc' is not .*logistic\?"):
        override(measured, {"after.protocols": "logistc,knn"})


def test_a_fine_tuned_networks_own_protocol_is_none_of_a_pretraining(measured: Config) -> None:
    with pytest.raises(ValueError, match=r"after.protocols: 'transfer' is not one of"):
        override(measured, {"after.protocols": "transfer"})


def test_datasets_without_a_protocol_are_refused(measured: Config) -> None:
    with pytest.raises(ValueError, match=r"after.protocols: none is named"):
        override(measured, {"after.protocols": ()})


def test_zero_shot_alone_is_refused_where_no_text_is_learnt(measured: Config) -> None:
    alone = override(measured, {"after.protocols": ("zeroshot",)})
    check(alone)
    images = {"loss.clip": 0.0, "loss.mfd": 0.0, "data.paired_batch": 0}
    with pytest.raises(ValueError, match=r"after.protocols zeroshot: this run has no text tower"):
        check(override(alone, images))
    check(override(measured, images))  # by logistic regression, zero-shot is left out and said


def test_protocols_that_tell_classes_apart_are_refused_for_a_number(
    small: Config, tmp_path: Path
) -> None:
    ages = write_ages(tmp_path / "ages")
    asked = {"after.datasets": str(ages), "after.task": "", "after.protocols": "attentive"}
    with pytest.raises(ValueError, match=r"age of .*ages is a number.*after.protocols=ridge,knn"):
        check(override(small, asked))
    check(override(small, asked | {"after.protocols": "logistic"}))  # ridge regression then


def test_two_datasets_of_one_name_are_refused_before_training(
    measured: Config, tmp_path: Path
) -> None:
    (first,) = measured.after.datasets
    copy = shutil.copytree(first, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"--after.datasets: .* are both called heldout"):
        check(override(measured, {"after.datasets": (first, str(copy))}))


def test_labels_that_cannot_be_divided_are_refused_before_training(
    small: Config, tmp_path: Path
) -> None:
    image = encode(np.full((40, 40, 3), 90, np.uint8), 90)
    with ShardWriter(tmp_path / "all_test", "all_test") as writer:
        for i in range(12):
            writer.add(f"s{i}", image, {"labels": {"grade": "ab"[i % 2]}, "split": "test"})
    asked = {"after.datasets": str(tmp_path / "all_test"), "after.task": ""}
    with pytest.raises(ValueError, match=r"after.datasets: .*all_test: .* left for train.*="):
        check(override(small, asked))


def test_a_split_file_of_other_samples_is_refused_before_training(
    measured: Config, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(measured.after.datasets[0], tmp_path / "heldout"))
    task = labelled(Shards(copy), measured.after.task)
    path = split_file(copy, task.name)
    write_split(path, task, divide(task))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"after.datasets: .*1 samples, .* are in no row"):
        check(override(measured, {"after.datasets": str(copy)}))


def test_a_task_that_tars_without_a_manifest_lack_is_refused_before_training(
    small: Config, tmp_path: Path
) -> None:
    image = encode(np.full((40, 40, 3), 90, np.uint8), 90)
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as tar:
        for i in range(40):
            facts = json.dumps({"labels": {"grade": "ab"[i % 2]}}).encode()
            for name, content in ((f"{i:02d}.jpg", image), (f"{i:02d}.json", facts)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    asked = {"after.datasets": str(tmp_path / "tars"), "after.protocols": "logistic"}
    check(override(small, asked | {"after.task": "grade"}))
    with pytest.raises(ValueError, match=r"no task 'graed'; did you mean grade\?"):
        check(override(small, asked | {"after.task": "graed"}))


def test_two_trees_of_images_of_one_name_are_refused(tmp_path: Path) -> None:
    trees = [tmp_path / part / "eyes" for part in ("a", "b")]
    for tree, name in product(trees, ("red", "green")):
        (tree / "train" / name).mkdir(parents=True)
        image_HWC = np.full((40, 40, 3), 90, np.uint8)
        (tree / "train" / name / "1.jpg").write_bytes(encode(image_HWC, 90))
    with pytest.raises(ValueError, match=r"--datasets: .* are both called eyes"):
        refuse_one_name("datasets", trees)
    refuse_one_name("datasets", [trees[0], trees[0], tmp_path / "not there yet"])

"""Classes whose order or spelling a dataset does not state, and runs that are resumed on them."""

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.config import FinetuneConfig, load, save
from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.evaluate.protocols import evaluate
from maskedclip.finetune import loop
from maskedclip.finetune.command import read_evaluate
from maskedclip.finetune.loop import finetune
from maskedclip.shards.building.prepare_sample import encode
from tests.tars import plain_tar

NAMES = ("vigour", "wilt", "rot")  # of no scale that is known
SPLITS = ("train", "train", "train", "val", "test", "test")


def patch(label: int, number: int) -> np.ndarray:
    noise = np.random.default_rng(number).integers(0, 60, (40, 40, 3), dtype=np.uint8)
    noise[..., label] += 120
    return noise


def build(directory: Path, names: tuple[str, ...] = NAMES) -> Path:
    with ShardWriter(directory, directory.name) as writer:
        for number in range(36):
            label = number % 3
            facts = {"labels": {"state": names[label]}, "split": SPLITS[number // 3 % 6]}
            facts["sha256"] = f"{number}"
            writer.add(f"k{number:02d}", encode(patch(label, number), 90), facts)
    return directory


def tars(directory: Path, names: list[str]) -> Path:
    members = {}
    for number, name in enumerate(names):
        file = io.BytesIO()
        Image.fromarray(patch(number % 3, number)).save(file, "JPEG")
        members[f"{number}.jpg"] = file.getvalue()
        members[f"{number}.json"] = json.dumps({"labels": {"state": name}}).encode()
    directory.mkdir()
    (directory / "x.tar").write_bytes(plain_tar(members))
    return directory


def test_built_shards_are_graded_by_an_order_that_is_given(tmp_path: Path) -> None:
    dataset = build(tmp_path / "plants")
    assert not labelled(Shards(dataset)).ordered
    kappas = {}
    for order in ((), NAMES):
        out = tmp_path / f"out{len(order)}"
        rows = evaluate(
            "random", [(dataset, "state")], ["knn"], out, size="micro", image_size=32,
            classes_order=order,
        )  # fmt: skip
        (kappas[order],) = (row["value"] for row in rows if row["metric"] == "quadratic_kappa")
        assert all(row["ordered"] is bool(order) for row in rows)
        header = next((out / "predictions").glob("*test.csv")).read_text().splitlines()[0]
        expected = order or ("rot", "vigour", "wilt")
        assert tuple(header.split(",")[-3:]) == expected
    assert kappas[()] is None
    assert isinstance(kappas[NAMES], float)


def test_an_order_that_lacks_a_class_or_has_one_twice_is_refused(tmp_path: Path) -> None:
    dataset = Shards(build(tmp_path / "plants"))
    with pytest.raises(ValueError, match="has not rot, which images have; name all of rot,vigour"):
        labelled(dataset, "state", ("vigour", "wilt"))
    with pytest.raises(ValueError, match="classes_order a,b,a: a class is named twice"):
        FinetuneConfig(classes_order=("a", "b", "a"))


def test_a_class_of_an_order_that_no_image_has_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = labelled(Shards(build(tmp_path / "plants")), "state", ("dead", *reversed(NAMES)))
    assert (task.classes, task.ordered) == (tuple(reversed(NAMES)), True)
    assert "no image is of dead, which classes_order names" in caplog.text


def test_spellings_of_a_class_in_tars_are_one_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["No DR", "no_dr", "NO DR", "No DR", "mild", "Mild ", "mild", "severe"]
    task = labelled(Shards(tars(tmp_path / "tars", names)))
    assert task.classes == ("No DR", "mild", "severe")
    assert [sample.label for sample in task.samples] == [0, 0, 0, 0, 1, 1, 1, 2]
    assert "spellings joined: No DR: also written NO DR, no_dr" in caplog.text


def test_evaluate_takes_the_order_from_its_command_line(tmp_path: Path) -> None:
    dataset = build(tmp_path / "plants")
    words = ["random", f"--datasets={dataset}", "--classes_order=vigour,wilt,rot"]
    assert read_evaluate(None, words).classes_order == NAMES


def stopped_run(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Begin a fine-tuning that dies in its second epoch, behind a saved state."""
    train_epoch = loop.train_epoch

    def dying(*words):
        if words[5] == 1:
            raise RuntimeError("power failure")
        return train_epoch(*words)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_SAVING", 1e9)
        patched.setattr(loop, "train_epoch", dying)
        with pytest.raises(RuntimeError, match="power failure"):
            finetune(config)
    return Path(config.out) / config.name


def test_a_run_is_not_resumed_where_its_classes_came_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("g2", "g10", "g1")  # in the order of their text: g1, g10, g2
    config = FinetuneConfig(
        weights="random", size="micro", dataset=str(build(tmp_path / "plants", names)),
        out=str(tmp_path), name="ours", image_size=32, epochs=3, warmup_epochs=0, threads=0,
    )  # fmt: skip
    caplog.set_level(logging.INFO)
    run = stopped_run(config, monkeypatch)
    path = run / "provenance.json"
    attempts = json.loads(path.read_text())
    assert attempts[-1]["classes"] == ["g1", "g2", "g10"]
    for recorded in (["g1", "g10", "g2"], ["g1", "g2"], None):  # None: of before it was recorded
        attempts[-1]["classes"] = recorded
        path.write_text(json.dumps(attempts))
        with pytest.raises(
            ValueError, match=r"begun with the classes g1, .*; choose another --name"
        ) as one:
            finetune(config)
        assert "\n" not in str(one.value)
    attempts[-1]["classes"] = ["g1", "g2", "g10"]
    path.write_text(json.dumps(attempts))
    finetune(config)
    assert "goes on after epoch 1" in caplog.text


def test_a_run_of_another_stated_order_is_another_run(tmp_path: Path) -> None:
    config = FinetuneConfig(classes_order=NAMES)
    save(config, tmp_path / "config.json")
    assert load(tmp_path / "config.json", FinetuneConfig) == config
    facts = json.loads((tmp_path / "config.json").read_text())
    del facts["classes_order"]  # of before there was the field
    (tmp_path / "config.json").write_text(json.dumps(facts))
    assert load(tmp_path / "config.json", FinetuneConfig) == replace(config, classes_order=())

"""Classes with few images: equally often or with weights, and named where they are tested."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from maskedclip.config import FinetuneConfig
from maskedclip.data.labelled import LabelledSample
from maskedclip.data.labelled_views import balanced_positions, training_batches
from maskedclip.data.order import number, permuted
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.finetune.command import read_finetune
from maskedclip.finetune.epoch import class_weights
from maskedclip.finetune.loop import finetune
from maskedclip.finetune.measured_rows import measured_rows
from maskedclip.finetune.run_directory import read_labels
from maskedclip.metrics.few_images import few_images
from maskedclip.metrics.results import read_rows, table, write_rows
from maskedclip.models.classifier import TaskHead
from maskedclip.report.build import report
from maskedclip.report.collect import collect
from maskedclip.report.command import ReportConfig
from maskedclip.shards.building.prepare_sample import encode
from tests.colours import config_of

LABELS = [0] * 30 + [1] * 6 + [2] * 3


def uneven(root: Path) -> FinetuneConfig:
    """Write 39 images to train, 12 to validate and 15 to test, of three colours."""
    generator = np.random.default_rng(0)
    parts = {"train": LABELS, "val": [0, 1, 2] * 4, "test": [0] * 11 + [1] * 3 + [2]}
    with ShardWriter(root / "colours", "colours") as writer:
        for split, labels in parts.items():
            for i, label in enumerate(labels):
                image_HWC = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
                image_HWC[..., label] += 80
                facts = {
                    "labels": {"colour": ("red", "green", "blue")[label]},
                    "split": split,
                    "sha256": f"{split}{i}",
                }
                writer.add(f"{split}{i:03d}", encode(image_HWC, 90), facts)
    return replace(config_of(root), epochs=2, warmup_epochs=0)


def test_an_epoch_of_balanced_sampling_holds_each_class_equally_often() -> None:
    for epoch in range(4):
        drawn = balanced_positions(LABELS, 0, epoch)
        assert Counter(LABELS[position] for position, _ in drawn) == {0: 13, 1: 13, 2: 13}
        assert len(set(drawn)) == 39
        times = Counter(position for position, _ in drawn if LABELS[position] == 1)
        assert set(times.values()) == {2, 3}  # all of a class before one again
    assert balanced_positions(LABELS, 0, 1) == balanced_positions(LABELS, 0, 1)
    assert balanced_positions(LABELS, 0, 1) != balanced_positions(LABELS, 0, 2)
    assert balanced_positions(LABELS, 0, 1) != balanced_positions(LABELS, 1, 1)
    uneven_share = [Counter(c[0] for c in balanced_positions([0, 0, 1], 0, e)) for e in (0, 1)]
    assert [sum(count.values()) for count in uneven_share] == [3, 3]


def keys_of(
    dataset: Shards, samples: list[LabelledSample], epochs: range, *, balanced: bool
) -> list[list[tuple[str, float]]]:
    def augment(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).float().permute(2, 0, 1) + torch.rand(())

    views = training_batches(
        dataset, samples, augment, batch=8, epochs=epochs, seed=3, workers=0, balanced=balanced
    )
    return [
        [(s.key, image.sum().item()) for s, image in zip(v.samples, v.image_BCHW, strict=True)]
        for v in views
    ]


def test_balanced_epochs_are_the_same_after_a_resume_and_the_default_is_as_it_was(
    tmp_path: Path,
) -> None:
    labels = read_labels(uneven(tmp_path))
    samples = labels.parts["train"]
    every = keys_of(labels.dataset, samples, range(3), balanced=True)
    assert keys_of(labels.dataset, samples, range(1, 3), balanced=True) == every[5:]
    first = [view for batch in every[:5] for view in batch]
    assert len(set(first)) == len(first) == 39  # a repeated sample has another augmentation
    plain = [key for batch in keys_of(labels.dataset, samples, range(1), balanced=False)
             for key, _ in batch]  # fmt: skip
    order = permuted(np.arange(39), 39, number(3, "fine-tuning order", 0))
    assert plain == [samples[i].key for i in order]


def test_class_weights_are_those_of_scikit_learn(tmp_path: Path) -> None:
    labels = read_labels(uneven(tmp_path))
    label_B = [sample.label for sample in labels.parts["train"]]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=label_B)
    weight_Y = class_weights(labels)
    assert np.allclose(weight_Y.numpy(), expected)
    logit_BY, target_B = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 2, 2])
    loss = TaskHead().loss(logit_BY, target_B, 0.0, weight_Y)
    each_B = F.cross_entropy(logit_BY, target_B, reduction="none")
    assert torch.allclose(loss, (each_B * weight_Y[target_B]).sum() / weight_Y[target_B].sum())


def test_a_balanced_run_is_another_line_of_the_tables(tmp_path: Path) -> None:
    config = uneven(tmp_path)
    for balance in ("sampling", "weights", "none"):
        run = finetune(replace(config, balance=balance, name="", epochs=1))  # type: ignore[arg-type]
        assert read_rows(run)[-1].get("balance", "none") == balance
    methods = {one.method for one in collect([tmp_path], "finetune").results}
    name = "random_micro"
    assert methods == {name, f"{name}, balanced sampling", f"{name}, class weights"}


def test_few_test_images_are_named_in_rows_and_under_every_table(tmp_path: Path) -> None:
    words = "2 of 3 classes have fewer than 10 test images: "
    run = finetune(replace(uneven(tmp_path), epochs=1))
    rows = read_rows(run)
    assert {row["few_images"] for row in rows} == {f"{words}blue (1), green (3)"}
    assert f"colours colour: {words}blue (1), green (3).\n" in table(rows)
    older = [{k: v for k, v in row.items() if k != "few_images"} for row in rows]
    write_rows(run, older)
    assert {row["few_images"] for row in measured_rows(run)} == {f"{words}blue (1), green (3)"}
    out = tmp_path / "report"
    report([run], ReportConfig(out=str(out), pictures=0))
    for name in ("table1.md", "table1.tex", "index.html"):
        assert words in (out / name).read_text()
    assert all(words in page.read_text() for page in (out / "runs").iterdir())


def test_few_images_are_counted_by_class() -> None:
    assert few_images("ab", {"a": 10, "b": 10}) == ""
    one = few_images("ab", {"a": 10})
    assert one == "1 of 2 classes has fewer than 10 test images: b (0)"
    many = few_images([f"c{i}" for i in range(10)], {})
    assert many.startswith("10 of 10 classes have fewer than 10 test images: c0 (0), ")
    assert many.endswith("c7 (0) and 2 more")


@pytest.mark.parametrize(
    ("epochs", "warmup"), [("5", 1), ("100", 20), ("1", 0), ("3", 1), ("50", 10)]
)
def test_warm_up_keeps_its_share_of_other_epochs_and_says_so(
    epochs: str, warmup: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uneven(tmp_path)
    words = ["random", f"--dataset={tmp_path / 'colours'}", f"--epochs={epochs}"]
    assert read_finetune("", words).config.warmup_epochs == warmup
    said = capsys.readouterr().err
    assert said.count("\n") == (warmup != 10)
    assert (f"warm-up: {warmup} of {epochs} epochs" in said) == (warmup != 10)
    assert read_finetune("", [*words, "--warmup_epochs=0"]).config.warmup_epochs == 0
    assert capsys.readouterr().err == ""

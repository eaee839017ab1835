"""A fine-tuning that ended where constant answers stand says so beside its scores."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskedclip.config import FinetuneConfig
from maskedclip.finetune.constant_answers import constant_loss, learnt_nothing
from maskedclip.finetune.cross_validation import cross_validate
from maskedclip.finetune.epoch import class_weights
from maskedclip.finetune.loop import build, finetune
from maskedclip.finetune.run_directory import read_labels
from maskedclip.metrics.results import read_rows, table
from maskedclip.report.collect import collect
from maskedclip.report.compare_methods import compare
from maskedclip.report.pages.tables import below
from tests.colours import config_of, two_colours
from tests.kinds_of_tasks import write_ages, write_findings


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("constant")
    two_colours(directory / "colours")
    write_findings(directory / "findings")
    write_ages(directory / "ages")
    return directory


def best_constant(config: FinetuneConfig) -> float:
    """Return the loss of the constant answer that an optimiser finds for all training images."""
    labels = read_labels(config)
    head, answers = labels.head, labels.task.answers(labels.parts["train"])
    target = head.targets(answers, torch.device("cpu"))
    weight_Y = class_weights(labels) if config.balance == "weights" else None
    columns = 1 if head.kind == "number" else len(labels.task.classes)
    logit_Y = torch.zeros(columns, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit_Y], max_iter=200)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = head.loss(logit_Y.expand(len(target), -1), target, config.smoothing, weight_Y)
        value.backward()
        return value

    optimizer.step(loss)
    return loss().item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("dataset", "balance"),
    [("colours", "none"), ("colours", "weights"), ("findings", "none"), ("ages", "none")],
)
def test_it_is_the_loss_of_the_best_answer_that_is_the_same_for_all(
    root: Path, dataset: str, balance: str, smoothing: float
) -> None:
    config = replace(
        config_of(root), dataset=str(root / dataset), balance=balance, smoothing=smoothing,
        fraction=0.5,
    )  # fmt: skip
    # of ages Huber's best constant is not exactly their mean
    close = 0.02 if dataset == "ages" else 1e-4
    assert constant_loss(read_labels(config), config) == pytest.approx(
        best_constant(config), rel=close
    )


def test_a_head_of_several_labels_begins_at_their_frequencies_and_one_of_classes_at_0(
    root: Path,
) -> None:
    config = replace(config_of(root), dataset=str(root / "findings"), fraction=0.5)
    labels = read_labels(config)
    model, _ = build(config, labels)
    target_BY = torch.as_tensor(labels.task.answers(labels.parts["train"])).float()
    logit_BY = model(torch.randn(len(target_BY), 3, 32, 32))
    first = labels.head.loss(logit_BY, target_BY, config.smoothing)
    assert first.item() == pytest.approx(constant_loss(labels, config), rel=1e-3)
    colours = replace(config, dataset=str(root / "colours"))
    model, _ = build(colours, read_labels(colours))
    assert not model.head.bias.any()


def test_a_fine_tuning_that_learnt_nothing_says_so_beside_every_score_and_how_to_go_on(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(config_of(root), name="nothing", lr=1e-9, min_lr=0.0, epochs=2)
    with caplog.at_level(logging.WARNING):
        run = finetune(config)
    said = "constant answers have 0.693: hardly anything was learnt"
    assert all(said in row["unlearnt"] for row in read_rows(run))
    (line,) = (text for text in caplog.messages if said in text)
    assert "try another rate than 1e-09 (a tenth; ten times where the loss hardly moved)" in line
    assert said in table(read_rows(run))
    assert said in compare(run, run)
    # a last row that is lost, as on a full disk, says nothing
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert learnt_nothing(run, read_labels(config), config) == ""


def test_a_table_names_the_method_that_learnt_nothing_and_not_one_that_did(root: Path) -> None:
    config = replace(config_of(root), augmentation="", re_prob=0.0)
    learnt = finetune(replace(config, name="something"))
    assert not any("unlearnt" in row for row in read_rows(learnt))
    # two runs of the micro encoder, of which the frozen one does not move
    frozen = replace(config, name="still", encoder="frozen", lr=1e-9, min_lr=0.0, epochs=2)
    results = collect([learnt, finetune(frozen)], "finetune").results
    (line,) = (one for one in below((r.method, "colours", r) for r in results) if "learnt" in one)
    assert line.startswith("random_micro, frozen, colours: the training loss ended at 0.69")


def test_pooled_folds_name_those_that_learnt_nothing(root: Path) -> None:
    config = replace(config_of(root), name="", lr=1e-9, min_lr=0.0, epochs=1, warmup_epochs=0)
    run = cross_validate(config, 2)
    for row in read_rows(run):
        first, second = row["unlearnt"].split("; ")
        assert first.startswith("fold 1: the training loss ended at 0.69")
        assert second.startswith("fold 2: ")

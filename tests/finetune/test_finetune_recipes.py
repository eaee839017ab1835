"""Named ways of fine-tuning have the values of their sources, and every field does something."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import Tensor

from maskedclip.config import FinetuneConfig
from maskedclip.data.augmentation import augmentation, mixed
from maskedclip.data.labelled_views import training_batches
from maskedclip.data.lost_samples import Ledger
from maskedclip.finetune.command import read_finetune
from maskedclip.finetune.epoch import learning_rate, train_epoch
from maskedclip.finetune.recipes import FINETUNE_RECIPES, paper, retfound, retfound2025, urfound
from maskedclip.finetune.run_directory import read_labels, run_name
from maskedclip.finetune.selection import selection_score
from maskedclip.metrics.scores import macro
from maskedclip.models.classifier import adamw_by_layer, build_classifier
from tests.colours import config_of, two_colours


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """Return a configuration with everything that can be off turned off."""
    directory = tmp_path_factory.mktemp("recipes")
    two_colours(directory / "colours")
    off = {"drop_path": 0.0, "smoothing": 0.0, "augmentation": "", "re_prob": 0.0}
    return replace(config_of(directory), **off, layer_decay=1.0, weight_decay=0.0)


def learnt(config: FinetuneConfig) -> dict[str, Tensor]:
    """Return the weights after an epoch of three steps."""
    labels = read_labels(config)
    torch.manual_seed(config.seed)
    model, _ = build_classifier(
        "random", image_size=config.image_size, num_classes=2, drop_path=config.drop_path,
        size=config.size,
    )  # fmt: skip
    optimizer = adamw_by_layer(
        model, layer_decay=config.layer_decay, weight_decay=config.weight_decay
    )
    batches = training_batches(
        labels.dataset,
        labels.parts["train"],
        augmentation(config.image_size, config.augmentation, config.re_prob),
        batch=config.batch,
        epochs=range(1),
        seed=config.seed,
        workers=0,
    )
    ledger = Ledger(Path(config.out) / "lost.jsonl", "colours")
    train_epoch(model, optimizer, batches, labels, config, 0, ledger)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def unchanged(plain: FinetuneConfig) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    return learnt(plain)


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize(
    "change",
    [
        {"augmentation": "rand-m9-mstd0.5-inc1"},
        {"re_prob": 0.9},
        {"mixup": 0.8},
        {"cutmix": 1.0},
        {"mixup": 0.8, "cutmix": 1.0},
        {"smoothing": 0.1},
        {"drop_path": 0.5},
        {"layer_decay": 0.65},
        {"weight_decay": 0.05},
        {"lr": 2e-3},
        {"warmup_epochs": 0},
        {"batch": 15},
        {"fraction": 0.5},
        {"seed": 1},
    ],
    ids=lambda change: ",".join(change),
)
def test_what_is_learnt_depends_on(
    plain: FinetuneConfig, unchanged: dict[str, Tensor], change: dict[str, Any]
) -> None:
    assert differ(unchanged, learnt(replace(plain, **change)))


def test_what_is_learnt_is_learnt_again(
    plain: FinetuneConfig, unchanged: dict[str, Tensor]
) -> None:
    assert not differ(unchanged, learnt(plain))
    mixing = replace(plain, mixup=0.8, cutmix=1.0, augmentation="rand-m9-mstd0.5-inc1")
    assert not differ(learnt(mixing), learnt(mixing))


def test_mixed_images_are_their_shares_and_so_are_their_labels() -> None:
    image_BCHW = torch.randn(4, 3, 8, 8)
    label_B = torch.tensor([0, 1, 2, 2])
    before = image_BCHW.clone()
    found_BCHW, target_BY = mixed(image_BCHW, label_B, classes=3, mixup=0.8, cutmix=0.0, key=7)
    share = target_BY[0, 0].item()  # of image 0 in the first, whose other is image 3
    assert 0 < share < 1
    assert target_BY[0].tolist() == pytest.approx([share, 0, 1 - share], abs=1e-6)
    torch.testing.assert_close(found_BCHW, share * before + (1 - share) * before.flip(0))
    assert image_BCHW.equal(before)


def test_a_pasted_part_counts_by_its_area() -> None:
    image_BCHW = torch.arange(2.0)[:, None, None, None].expand(2, 3, 8, 8)
    label_B = torch.tensor([0, 1])
    for key in range(5):
        found_BCHW, target_BY = mixed(
            image_BCHW, label_B, classes=2, mixup=0.0, cutmix=1.0, key=key
        )
        assert set(found_BCHW.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(target_BY[:, 1], found_BCHW.mean(dim=(1, 2, 3)))


def test_the_last_image_of_an_odd_batch_is_not_mixed() -> None:
    image_BCHW, label_B = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 0, 1, 1])
    found_BCHW, target_BY = mixed(image_BCHW, label_B, classes=2, mixup=0.8, cutmix=0.0, key=3)
    assert found_BCHW[4].equal(image_BCHW[4])
    assert target_BY[4].tolist() == [0, 1]
    assert not found_BCHW[0].equal(image_BCHW[0])
    alone_BCHW, _ = mixed(image_BCHW[:1], label_B[:1], classes=2, mixup=0.8, cutmix=0.0, key=3)
    assert alone_BCHW.equal(image_BCHW[:1])


def test_mixing_follows_from_its_key_and_leaves_the_generators_alone() -> None:
    image_BCHW, label_B = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
    state = np.random.get_state()[1].tolist()
    again = [
        mixed(image_BCHW, label_B, classes=2, mixup=0.8, cutmix=1.0, key=key)[0]
        for key in (1, 1, 2)
    ]
    assert again[0].equal(again[1])
    assert not again[0].equal(again[2])
    assert np.random.get_state()[1].tolist() == state


def test_retfounds_score_is_the_mean_of_f1_auroc_and_kappa() -> None:
    label_B = np.array([0, 0, 1, 1, 2, 2])
    probability_BY = np.array(
        [[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3],
         [0.2, 0.2, 0.6]]
    )  # fmt: skip
    auroc, _ = macro("auroc", label_B, probability_BY)
    kappa = (4 / 6 - 2 / 6) / (1 - 2 / 6)
    assert cohen_kappa_score(label_B, probability_BY.argmax(axis=1)) == pytest.approx(kappa)
    f1 = np.mean([2 / 3, 4 / 6, 2 / 3])  # predictions: 0, 1, 1, 1, 1, 2
    assert selection_score("retfound", label_B, probability_BY) == pytest.approx(
        (f1 + auroc + kappa) / 3
    )
    assert selection_score("auroc", label_B, probability_BY) == auroc


def test_selections_can_choose_different_epochs() -> None:
    label_B = np.array([0, 0, 1, 1])
    ranked, unchosen = (
        np.stack([1 - p, p], axis=1)
        for p in (np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.6, 0.55, 0.9]))
    )  # in the right order but never predicted to be of class 1; and one pair in the wrong order
    scores = {
        kind: [selection_score(kind, label_B, p) for p in (ranked, unchosen)]
        for kind in ("auroc", "retfound")
    }
    assert scores["auroc"] == [1.0, 0.75]
    assert scores["retfound"] == pytest.approx([(1 / 3 + 1 + 0) / 3, (11 / 15 + 0.75 + 0.5) / 3])


def test_recipes_have_the_values_of_their_sources() -> None:
    for recipe in (paper(), retfound(), urfound()):
        assert (recipe.batch, recipe.epochs, recipe.warmup_epochs) == (16, 50, 10)
        assert (recipe.layer_decay, recipe.drop_path, recipe.weight_decay) == (0.65, 0.2, 0.05)
        assert (recipe.smoothing, recipe.mixup, recipe.selection) == (0.1, 0.0, "auroc")
        assert learning_rate(recipe, 10) == recipe.lr
    assert paper() == FinetuneConfig()
    assert paper().lr == 5e-4
    assert retfound().lr == urfound().lr == 5e-3 * 16 / 256 == 3.125e-4
    late = retfound2025()
    assert (late.batch, late.lr, late.smoothing) == (24, 4.6875e-4, 0.0)
    assert late.selection == "retfound"
    assert [FINETUNE_RECIPES[name]().recipe for name in FINETUNE_RECIPES] == list(FINETUNE_RECIPES)


def test_a_recipe_has_runs_of_its_own_name(plain: FinetuneConfig) -> None:
    names = {
        run_name(replace(recipe(), weights="random", dataset=plain.dataset, task="colour"))
        for recipe in FINETUNE_RECIPES.values()
    }
    assert names == {
        "random_large-colours-colour-1-seed0",
        "random_large-colours-colour-1-seed0-retfound",
        "random_large-colours-colour-1-seed0-retfound2025",
        "random_large-colours-colour-1-seed0-urfound",
        "random_large-colours-colour-1-seed0-frozen",
        "random_large-colours-colour-1-seed0-lora",
    }


def test_the_command_line_names_a_recipe_and_changes_it(
    plain: FinetuneConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = ["random", "--dataset", plain.dataset]
    config, *_ = read_finetune("", [*dataset, "--recipe=retfound", "--mixup=0.8"])
    assert config == replace(retfound(), weights="random", dataset=plain.dataset, mixup=0.8)
    for flag, answer in (
        ("--recipe=retfuond", "did you mean retfound?"),
        ("--selection=auc", "did you mean auroc?"),
        ("--smoothing=1", "write a share"),
        ("--re_prob=-0.1", "write a share"),
        ("--layer_decay=0", "write a share"),
        ("--cutmix=-1", "neither is below 0"),
    ):
        with pytest.raises(SystemExit) as stopped:
            read_finetune("", [*dataset, flag])
        assert stopped.value.code == 2
        assert answer in capsys.readouterr().err
    with pytest.raises(SystemExit):
        read_finetune("", ["--help", "all", "--recipe=retfound2025"])
    shown = capsys.readouterr().out
    assert "--batch=24" in shown
    assert all(re.search(f"--{field.name}[= ]", shown) for field in fields(FinetuneConfig))


@pytest.mark.parametrize("words", ["rand-m9-mstd0.5-inc1-x", "banana", "rand-mx"])
def test_an_augmentation_that_timm_does_not_know_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="timm does not know it; use --augmentation=rand"):
        augmentation(32, words)


def test_a_class_that_was_not_trained_takes_no_part_in_the_selection() -> None:
    label_B = np.array([0, 0, 1, 1, 2])
    probability_BY = np.array(
        [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.9, 0], [0.2, 0.8, 0], [0.5, 0.5, 0]]
    )
    assert selection_score("auroc", label_B, probability_BY) == pytest.approx((1 + 1 + 0.5) / 3)
    assert selection_score("auroc", label_B, probability_BY, [2]) == 1.0

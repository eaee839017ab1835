"""Complete named ways of fine-tuning, each a function made from another one.

The docstring's first line is what `--help` shows; then where its values come from. A field given on
the command line replaces the recipe's. Rates are absolute: with another batch size scale --lr by
hand where a recipe counts it for 256 images.
"""

import difflib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from maskedclip.config import FinetuneConfig, override


def paper() -> FinetuneConfig:
    """MaskedCLIP's own: batch 16, AdamW, 50 epochs, 10 of them warm-up, peak rate 5e-4.

    Section 3 of the paper. What it leaves open is RETFound's: layer decay 0.65, drop path 0.2,
    weight decay 0.05, augmentation, label smoothing, selection by validation AUROC.
    """
    return FinetuneConfig(recipe="paper")


def retfound() -> FinetuneConfig:
    """RETFound's first release: as the paper's, at a peak rate of 3.125e-4.

    The code of the Nature paper (rmaphoh/RETFound_MAE before 2025): base rate 5e-3 for 256 images,
    so 3.125e-4 at batch 16; rand-m9-mstd0.5-inc1, erasing 0.25, no mixup, smoothing 0.1. Two of its
    habits are left out. It drops an epoch's last, smaller batch: of the 33 images that 10 % of
    IDRiD's labels are it would not see one in each epoch, of 15 or fewer it would learn nothing.
    And it tests the last epoch's weights; here as in its later code they are those of the epoch
    with the best validation AUROC.
    """
    return override(paper(), {"recipe": "retfound", "lr": 5e-3 * 16 / 256})


def retfound2025() -> FinetuneConfig:
    """RETFound's code of 2025: batch 24, plain cross-entropy, selected by F1, AUROC and kappa.

    Its train.sh and defaults (rmaphoh/RETFound, late 2025): base rate 5e-3 for 256 images, so
    4.6875e-4 at batch 24; 50 epochs, 224 pixels; the mean of macro F1, macro AUROC and Cohen's
    kappa (not weighted) on validation chooses the epoch. The last, smaller batch is kept here too.
    """
    changes = {
        "recipe": "retfound2025",
        "batch": 24,
        "lr": 5e-3 * 24 / 256,
        "smoothing": 0.0,
        "selection": "retfound",
    }
    return override(retfound(), changes)


def urfound() -> FinetuneConfig:
    """UrFound's: RETFound's first release, and no image is left out of an epoch.

    README and main_finetune.py of yukkai/UrFound: the values are those of `retfound`, the last,
    smaller batch is kept, and of its two test scores (best and last epoch) this is the best
    validation AUROC's.
    """
    return override(retfound(), {"recipe": "urfound"})


def frozen() -> FinetuneConfig:
    """A frozen encoder: the head alone is trained, with the norm in front of it.

    As `paper`, at a higher rate, and without what spares or disturbs an encoder: layer decay and
    drop path. Nothing is kept of the encoder for a backward pass.
    """
    changes = {
        "recipe": "frozen", "encoder": "frozen", "lr": 5e-3, "layer_decay": 1.0, "drop_path": 0.0,
    }  # fmt: skip
    return override(paper(), changes)


def lora() -> FinetuneConfig:
    """LoRA: low-rank updates of the linear layers of an encoder's blocks, merged at the end.

    Hu et al., 2021: rank 8, alpha 16, no dropout; here of all linear layers, and the head with its
    norm. As `paper`, without layer decay and drop path; its rate, 5e-4, was the best of three on
    validation phantoms (docs/recipes.md).
    """
    changes = {
        "recipe": "lora", "encoder": "lora", "layer_decay": 1.0, "drop_path": 0.0,
    }  # fmt: skip
    return override(paper(), changes)


FINETUNE_RECIPES: dict[str, Callable[[], FinetuneConfig]] = {
    recipe.__name__: recipe for recipe in (paper, retfound, retfound2025, urfound, frozen, lora)
}


BALANCES = {"sampling": "balanced sampling", "weights": "class weights"}  # as tables call them


def following_warmup(
    recipe: FinetuneConfig, changes: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Return changed fields with the warm-up's share of the epochs kept, where only these change.

    Of 50 epochs with 10 of warm-up, 5 have 1. It is said in a line where it is another number.

    Args:
        prefix: stands before each field of fine-tuning on that command line.
    """
    if "epochs" not in changes or "warmup_epochs" in changes:
        return dict(changes)
    try:
        epochs = int(changes["epochs"])
    except ValueError:
        return dict(changes)  # the config says what is wrong
    warmup = min(round(epochs * recipe.warmup_epochs / recipe.epochs), max(0, epochs - 1))
    if warmup != recipe.warmup_epochs:
        sys.stderr.write(
            f"warm-up: {warmup} of {epochs} epochs, the share of the recipe's "
            f"{recipe.warmup_epochs} of {recipe.epochs}; another by --{prefix}warmup_epochs=N\n"
        )
    return {**changes, "warmup_epochs": str(warmup)}


def finetune_recipe(name: str) -> FinetuneConfig:
    """Return a recipe's configuration; ValueError for an unknown name, with the nearest one."""
    if name not in FINETUNE_RECIPES:
        near = difflib.get_close_matches(name, FINETUNE_RECIPES, n=1)
        raise ValueError(
            f"no recipe {name!r}; did you mean {(near or [', '.join(FINETUNE_RECIPES)])[0]}?"
        )
    return FINETUNE_RECIPES[name]()

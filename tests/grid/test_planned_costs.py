"""What a dry run says that fine-tunings cost: counted, or not known and why; never nothing."""

import re
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from maskedclip.grid.ablation_command import read_ablation
from maskedclip.grid.start import start_ablation, start_study
from maskedclip.grid.study_command import read_study

EPOCHS = 2_000_000


def hours(passes: int, width: int, depth: int, tokens: int) -> float:
    """Count by hand: qkv, projection and an MLP of four widths, and mixing, at 30 % of an A100."""
    products = 2 * tokens * (3 * width**2 + width**2 + 2 * 4 * width**2) + 2 * 2 * tokens**2 * width
    return passes * depth * products / (0.3 * 312e12) / 3600


def planned(phantoms: dict[str, Path], out: Path, *more: str) -> list[str]:
    sources = [f"--data.{name}={phantoms[name]}" for name in ("paired", "unpaired")]
    return [
        "--systems=mae", *sources, "--task=disease", "--fractions=1.0", "--seeds=2", "--gpus=1",
        "--model.image_size=32", f"--finetune.epochs={EPOCHS}", f"--out={out}", "--dry_run",
        "--cluster=slurm", *more,
    ]  # fmt: skip


def test_fine_tunings_of_a_pre_training_to_come_are_counted(
    phantoms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = planned(phantoms, tmp_path, f"--datasets={phantoms['heldout']}")
    assert start_ablation(read_ablation("", words)) == 0
    shown = capsys.readouterr().out
    found = re.search(r"^2 fine-tunings +([\d.]+) ", shown, re.MULTILINE)
    assert found is not None
    # 60 images: 36 to train, a step costing three forward passes, 12 to validate, 12 to test
    expected = 2 * hours(EPOCHS * (3 * 36 + 12) + 12, width=1024, depth=24, tokens=5)
    assert expected > 1
    assert float(found[1]) == pytest.approx(expected, abs=0.051)
    assert "not known" not in shown
    assert "mae-heldout-disease-1-seed0" in shown  # as it will be called when it runs


def test_what_cannot_be_counted_is_not_known_and_no_part_of_the_sum(
    phantoms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = f"--datasets={phantoms['heldout']},{tmp_path / 'phantom_to_come'}"
    words = planned(phantoms, tmp_path, both, "--data.draw_phantoms=50")
    assert start_ablation(read_ablation("", words)) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^2 of 4 fine-tunings +\d+\.\d ", shown, re.MULTILINE)
    assert re.search(r"^not known: 2 fine-tunings: .*phantom_to_come.*$", shown, re.MULTILINE)
    assert re.search(r"^all that is known +\d+\.\d ", shown, re.MULTILINE)


def test_third_party_weights_are_counted_by_their_own_shape(
    phantoms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = VisionTransformer(
        img_size=42, patch_size=14, embed_dim=128, depth=2, num_heads=2, num_classes=0
    )
    torch.save(network.state_dict(), tmp_path / "dinov2.pth")
    epochs = 500 * EPOCHS
    words = [
        str(tmp_path / "dinov2.pth"), f"--datasets={phantoms['heldout']}", "--task=disease",
        "--fractions=1.0", "--seeds=1", f"--epochs={epochs}", f"--out={tmp_path}", "--dry_run",
        "--cluster=slurm", "--gpus=1", "--image_size=42",
    ]  # fmt: skip
    assert start_study(read_study("", words)) == 0
    found = re.search(r"^1 fine-tunings +([\d.]+) ", capsys.readouterr().out, re.MULTILINE)
    assert found is not None
    expected = hours(epochs * (3 * 36 + 12) + 12, width=128, depth=2, tokens=10)
    assert expected > 1
    assert float(found[1]) == pytest.approx(expected, abs=0.051)

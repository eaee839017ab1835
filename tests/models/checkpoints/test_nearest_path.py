"""Weights that are not there are answered with the nearest that are."""

from pathlib import Path

import pytest

from maskedclip.models.checkpoints.files import locate, locate_classifier

HUB = "random, or a name of Hugging Face or timm after: python tools/prefetch.py demo"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "small").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "dinov2.pth").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/smal", "did you mean runs/small? Else give one, or random"),
        ("weigths/dinov2.pt", "did you mean weights/dinov2.pth? Else give one, or random"),
        ("runs/nothing_like_it", "give one, or random"),
        ("smal", f"did you mean runs/small? Else give one, {HUB} --init_from=timm/smal"),
        ("run/small", f"did you mean runs/small? Else give one, {HUB} --init_from=run/small"),
        ("randon", f"did you mean random? Else give one, {HUB} --init_from=timm/randon"),
        ("lab/dinov9", f"give one, {HUB} --init_from=lab/dinov9"),
    ],
)
def test_a_mistyped_name_of_weights(name: str, words: str) -> None:
    with pytest.raises(ValueError, match="no such") as refused:
        locate(name)
    assert str(refused.value) == f"{name}: no such run or file of weights; {words}"


def test_random_weights_where_there_can_be_none_are_not_what_is_proposed() -> None:
    with pytest.raises(ValueError, match="were not trained cannot be used here; give others"):
        locate("random")


def test_a_path_from_the_root_is_answered_in_full(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"did you mean {tmp_path}/weights/dinov2.pth"):
        locate(tmp_path / "weight" / "dinov2.pth")


def test_a_mistyped_run_of_a_classifier() -> None:
    with pytest.raises(ValueError, match="no such run; did you mean runs/small"):
        locate_classifier("runs/smalll")

"""Weights that are not there are answered with the nearest that are."""

from pathlib import Path

import pytest
import timm

from maskedclip.models.checkpoints.files import locate, locate_classifier

FETCH = "after: python tools/prefetch.py demo --init_from="
ANY_HUB = "a name of Hugging Face, ORG/NAME, or of timm, that tools/prefetch.py has fetched"
DINOV2_S = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "small").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "dinov2.pth").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/smal", "did you mean runs/small? Else give one{}"),
        ("weigths/dinov2.pt", "did you mean weights/dinov2.pth? Else give one{}"),
        ("runs/nothing_like_it", "give one{}"),
        ("smal", f"did you mean runs/small? Else give one{{}}, or {ANY_HUB}"),
        (
            "run/small",
            "did you mean runs/small? Else give one{}, or this name of Hugging Face "
            f"{FETCH}run/small",
        ),
        ("lab/dinov9", f"give one{{}}, or this name of Hugging Face {FETCH}lab/dinov9"),
        ("dinov9", f"give one{{}}, or {ANY_HUB}"),
        (
            "vit_small_patch14_dinov2",
            f"give one{{}}, or timm's {DINOV2_S} {FETCH}{DINOV2_S}",
        ),
    ],
)
def test_a_mistyped_name_of_weights(name: str, words: str) -> None:
    """Untrained weights are offered where they serve alone, and of timm what its registry has."""
    for or_random, others in ((False, ""), (True, ", or random")):
        with pytest.raises(ValueError, match="no such") as refused:
            locate(name, or_random=or_random)
        said = words.format(others.replace(" or", "") if words.count("{}, or") else others)
        assert str(refused.value) == f"{name}: no such run or file of weights; {said}"


def test_a_part_of_a_name_is_answered_with_names_that_timm_has() -> None:
    with pytest.raises(ValueError, match="or timm's ") as refused:
        locate("dinov2")
    proposed = str(refused.value).rpartition("--init_from=")[2]
    assert proposed in timm.list_pretrained("*dinov2*")
    assert "timm/dinov2" not in str(refused.value)


def test_a_mistyped_random_is_answered_where_it_serves() -> None:
    with pytest.raises(ValueError, match=r"did you mean random\? Else give one, random, or a name"):
        locate("randon", or_random=True)
    with pytest.raises(ValueError, match="no such run or file of weights; give one, or a name"):
        locate("randon")


def test_random_weights_where_there_can_be_none_are_not_what_is_proposed() -> None:
    with pytest.raises(ValueError, match="were not trained cannot be used here; give others"):
        locate("random")


def test_a_path_from_the_root_is_answered_in_full(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"did you mean {tmp_path}/weights/dinov2.pth"):
        locate(tmp_path / "weight" / "dinov2.pth")


def test_a_mistyped_run_of_a_classifier() -> None:
    with pytest.raises(ValueError, match="no such run; did you mean runs/small"):
        locate_classifier("runs/smalll")

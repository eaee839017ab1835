"""A path alone is one image; a folder for a file, and the reverse, are said in words."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskedclip
from maskedclip.explain.command import read_explain
from maskedclip.finetune.command import read_evaluate, read_finetune
from maskedclip.inference import Model
from tests.colours import two_colours
from tests.untrained import exported


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("here")
    exported(root / "run")
    two_colours(root / "shards")
    (root / "images").mkdir()
    image_HWC = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    Image.fromarray(image_HWC).save(root / "images" / "eye.png")
    return root


@pytest.fixture(scope="module")
def model(here: Path) -> Model:
    return maskedclip.load(here / "run")


def test_one_image_alone_is_a_list_of_one_in_every_form(here: Path, model: Model) -> None:
    path = here / "images" / "eye.png"
    expected = model.encode_image([path])
    assert expected.shape == (1, 16)
    with Image.open(path) as opened:
        forms = [path, str(path), opened, np.asarray(opened.convert("RGB")), (path,), [str(path)]]
        for form in forms:
            torch.testing.assert_close(model.encode_image(form), expected)
        probability = model.classify(path, ["normal", "glaucoma"])
    torch.testing.assert_close(probability, model.classify([path], ["normal", "glaucoma"]))


@pytest.mark.parametrize(
    ("give", "answer"),
    [
        (lambda here: here / "images", "is a folder; give its images"),
        (lambda here: [str(here / "images")], "is a folder; give its images"),
        (lambda here: here / "images" / "no.png", "no.png: no such image"),
        (lambda here: here / "run" / "config.json", "config.json: no such image"),
        (lambda here: here / "run" / "encoder.safetensors", "not an image of a known format"),
        (lambda _: 3, "images: int; give a path, an image, a list of them"),
        (lambda _: [3], "images: int; give a path, a PIL image or an array"),
        (lambda _: [], "the list is empty"),
    ],
)
def test_what_is_no_image_is_said(
    here: Path, model: Model, give: Callable[[Path], object], answer: str
) -> None:
    for ask in (model.encode_image, lambda images: model.classify(images, ["normal", "glaucoma"])):
        with pytest.raises(ValueError, match=answer):
            ask(give(here))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("read", "words", "answer"),
    [
        (read_finetune, ["run", "--dataset=images/eye.png"], "is a file, and no tar"),
        (read_finetune, ["run", "--dataset=run"], "run: is a run, not a dataset"),
        (read_finetune, ["run", "--dataset=run/model.safetensors"], "is a file of weights, not a"),
        (read_finetune, ["images", "--dataset=shards"], "images: a folder without weights"),
        (read_evaluate, ["run", "--datasets=run"], "run: is a run, not a dataset"),
        (read_evaluate, ["run", "--datasets=run/encoder.safetensors"], "is a file of weights, not"),
        (read_evaluate, ["shards", "--datasets=shards"], "shards: a folder without weights"),
        (read_explain, ["run", "--images=images"], "--images images: is a folder; name its files"),
        (read_explain, ["run", "--dataset=images/eye.png"], "is a file, and no tar"),
        (read_explain, ["images", "--images=images/eye.png"], "images: a folder without weights"),
    ],
)
def test_a_folder_for_a_file_and_a_file_for_a_folder_end_in_one_line(
    read: Callable[[str, Sequence[str]], object], words: Sequence[str], answer: str, here: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(here)
    with pytest.raises(SystemExit) as ended:
        read("", words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert answer in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("images", "images: a folder without weights"),
        ("images/eye.png", "a PNG image, not weights"),
        ("shards", "shards: a folder without weights"),
    ],
)
def test_load_says_what_a_path_is_that_is_no_weights(here: Path, path: str, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        maskedclip.load(here / path)

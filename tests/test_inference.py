"""What `maskedclip.load` returns gives the same numbers as the networks that were exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskedclip
from maskedclip.data.captions import prompts
from maskedclip.data.transforms import normalise
from maskedclip.shards.building.prepare_sample import encode
from tests.untrained import exported


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    run = tmp_path_factory.mktemp("run")
    network, tokenize = exported(run)
    return run, network.eval(), tokenize


def some_images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1)).byte()


def test_images_and_texts_are_encoded_as_by_the_exported_networks(ours: Any) -> None:
    run, network, tokenize = ours
    model = maskedclip.load(run)
    image_BCHW = some_images()
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_image(image_BCHW), network.encode_image(normalise(image_BCHW))
        )
        texts = ["A fundus photograph of glaucoma", "normal"]
        torch.testing.assert_close(model.encode_text(texts), network.text(*tokenize(texts)))
    torch.testing.assert_close(model.encode_image(image_BCHW).norm(dim=1), torch.ones(3))


def test_a_finding_is_classified_by_the_mean_of_its_prompts(ours: Any) -> None:
    run, network, _ = ours
    model = maskedclip.load(run)
    names = ["glaucoma", "moderate diabetic retinopathy", "something else"]
    means = torch.stack([model.encode_text(prompts(name)).mean(dim=0) for name in names])
    cosine_BY = model.encode_image(some_images()) @ (means / means.norm(dim=1, keepdim=True)).T
    by_hand = (network.temperature().detach() * cosine_BY).softmax(dim=1)
    found = model.classify(some_images(), names)
    torch.testing.assert_close(found.float(), by_hand)
    worded = {name: prompts(name) for name in names}
    torch.testing.assert_close(model.classify(some_images(), worded), found)


def test_arrays_pictures_and_paths_of_one_image_are_the_same(ours: Any, tmp_path: Path) -> None:
    model = maskedclip.load(ours[0])
    image_HWC = np.zeros((60, 80, 3), dtype=np.uint8)
    image_HWC[10:50, 20:60] = (200, 90, 40)
    Image.fromarray(image_HWC).save(tmp_path / "eye.png")
    images: list[Any] = [
        image_HWC,
        Image.fromarray(image_HWC),
        tmp_path / "eye.png",
        str(tmp_path / "eye.png"),
    ]
    row_BD = model.encode_image(images)
    for row_D in row_BD[1:]:
        torch.testing.assert_close(row_D, row_BD[0])
    tensor_BCHW = torch.from_numpy(image_HWC).permute(2, 0, 1)[None]
    torch.testing.assert_close(model.encode_image(tensor_BCHW), row_BD[:1])
    cropped = model.encode_image([image_HWC], field_of_view=True)
    assert not torch.allclose(cropped, row_BD[:1], atol=1e-3)


def test_an_encoder_alone_encodes_images_and_says_that_it_reads_no_text(ours: Any) -> None:
    model = maskedclip.load(ours[0] / "encoder.safetensors")
    with torch.no_grad():
        _, token_BND = ours[1].encoder(normalise(some_images()), None, 3)
    mean_BD = token_BND[:, 1:].mean(dim=1)
    by_hand = mean_BD / mean_BD.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.encode_image(some_images()), by_hand, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="no text tower"):
        model.classify(some_images(), ["glaucoma"])


def test_what_is_no_image_or_no_model_is_refused_by_name(ours: Any, tmp_path: Path) -> None:
    model = maskedclip.load(ours[0])
    (tmp_path / "cut.jpg").write_bytes(encode(np.zeros((40, 40, 3), np.uint8), 90)[:80])
    for images, answer in (
        ([tmp_path / "cut.jpg"], "cut.jpg"),
        ([tmp_path / "none.jpg"], "no such image"),
        ([np.zeros((8, 8, 3))], "give uint8 HWC"),
        (some_images().float(), "give uint8 BCHW"),
        ([], "the list is empty"),
    ):
        with pytest.raises(ValueError, match=answer):
            model.encode_image(images)
    with pytest.raises(ValueError, match="no fine-tuned head"):
        model.classify(some_images())
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=str(path)):
            maskedclip.load(path)

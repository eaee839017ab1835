"""Third-party encoders in load, features, fine-tuning and evaluation, prepared as they expect."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import maskedclip
from maskedclip.config import FinetuneConfig
from maskedclip.data.labelled import labelled
from maskedclip.data.labelled_views import preparation
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.evaluate.features import FrozenEncoder
from maskedclip.evaluate.measuring import inputs_of
from maskedclip.evaluate.predicting import Benchmark
from maskedclip.evaluate.protocols import evaluate, evaluations_of
from maskedclip.finetune.command import check_weights
from maskedclip.finetune.loop import finetune
from maskedclip.metrics.results import read_rows
from maskedclip.models.checkpoints.files import name_of
from maskedclip.models.checkpoints.formats import training_datasets
from maskedclip.models.maskedclip import MaskedCLIP
from maskedclip.models.pretrained import begin_from, encoder_info, load_encoder
from maskedclip.shards.phantoms.phantom import draw
from tests.models.checkpoints.test_architectures import clip, mae, patches, vit, written
from tests.models.test_joint_space import ENGLISH, retizero_whole
from tests.models.test_pretrained import network as ours


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    resnet = timm.create_model("resnet50", num_classes=0)
    path = tmp_path_factory.mktemp("weights") / "flair_resnet.safetensors"
    save_file({f"vision_model.model.{k}": v for k, v in resnet.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def augreg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VisionTransformer]:
    network = vit(img_size=32)
    path = tmp_path_factory.mktemp("weights") / "vit_tiny_patch16_224.augreg_in21k.safetensors"
    save_file(network.state_dict(), path)
    return path, network


def photograph(width: int = 80, height: int = 40) -> np.ndarray:
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_load_prepares_images_as_the_weights_want_it(augreg: Any) -> None:
    path, network = augreg
    model = maskedclip.load(path)
    image_BCHW = torch.from_numpy(photograph(32, 32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        token_BND = patches(network)((image_BCHW.float() / 255 - 0.5) / 0.5)
    mean_BD = torch.nn.functional.normalize(token_BND.mean(dim=1), dim=-1)
    torch.testing.assert_close(model.encode_image(image_BCHW), mean_BD)
    wide = Image.fromarray(photograph())
    by_hand = preparation(32, mean=(0.5,) * 3, std=(0.5,) * 3, resize=1 / 0.9)(wide)[None]
    torch.testing.assert_close(model.encode_image([wide]), model.features(by_hand))


def test_flair_sees_the_whole_picture_in_the_corner_of_a_black_square() -> None:
    prepare = preparation(
        64, mean=(0.0,) * 3, std=(1.0,) * 3, resize=1.0, interpolation="bilinear", whole=True
    )
    image_HWC = np.full((40, 80, 3), 255, np.uint8)
    image_CHW = prepare(Image.fromarray(image_HWC))
    assert image_CHW.shape == (3, 64, 64)
    assert (image_CHW[:, :32] == 1).all()
    assert (image_CHW[:, 32:] == 0).all()


def idrid(directory: Path) -> Path:
    """Write phantoms under the name of a dataset that FLAIR was trained on."""
    with ShardWriter(directory, "idrid", samples_per_shard=40) as writer:
        for i in range(40):
            phantom = draw(i, 48)
            split = ("train", "train", "val", "test")[i % 4]
            metadata = {"dataset": "idrid", "labels": phantom.labels, "split": split}
            metadata |= {"categories": list(phantom.categories), "width": 48, "height": 48}
            writer.add(f"{i:06d}", simplejpeg.encode_jpeg(phantom.image_HWC), metadata)
    return directory


def test_flair_is_fine_tuned_and_flagged_where_it_knew_the_images(
    flair: Path, tmp_path: Path
) -> None:
    config = FinetuneConfig(
        weights=str(flair), dataset=str(idrid(tmp_path / "idrid")), out=str(tmp_path / "runs"),
        image_size=64, epochs=2, warmup_epochs=1, threads=0,
    )  # fmt: skip
    run = finetune(config)
    rows = read_rows(run)
    assert {row["seen"] for row in rows} == {"FLAIR"}
    loaded = json.loads((run / "loaded.json").read_text())
    assert (loaded["form"], loaded["share"]) == ("FLAIR", 1.0)
    tuned = maskedclip.load(run)
    assert (tuned.preparation.mean, tuned.preparation.whole) == ((0.0,) * 3, True)
    assert tuned.classify([photograph()]).shape[0] == 1
    assert encoder_info(tuned.network).format == "FLAIR"


def test_frozen_features_are_of_the_weights_own_colours(
    augreg: Any, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    frozen = FrozenEncoder(augreg[0])
    facts = frozen.cache_key(Shards(phantoms["heldout"]))
    assert facts["preparation"]["mean"] == (0.5, 0.5, 0.5)
    assert (frozen.name, frozen.info.preparation.image_size) == (
        "vit_tiny_patch16_224.augreg_in21k",
        32,
    )
    rows = evaluate(augreg[0], [(phantoms["heldout"], "")], ["logistic"], tmp_path)
    assert {row["seen"] for row in rows} == {""}
    assert json.loads((tmp_path / "loaded.json").read_text())["form"] == "ImageNet-21K"


def test_zero_shot_is_asked_of_a_third_party_text_tower_that_reads_english(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(ENGLISH) + "\n")
    path = written(tmp_path, "RetiZero.pth", retizero_whole().content)
    rows = evaluate(path, [(phantoms["heldout"], "")], ["zeroshot"], tmp_path / "out")
    assert {row["protocol"] for row in rows} == {"zeroshot"}
    assert {row["image_size"] for row in rows} == {64}
    encoder, image_BCHW = FrozenEncoder(path), torch.randn(2, 3, 64, 64)
    assert encoder.reads_text
    dataset = Shards(phantoms["heldout"])
    task = labelled(dataset)
    benchmark = Benchmark(dataset, task, division_of(dataset, task))
    (asked,) = evaluations_of(benchmark.division, ["zeroshot"], (1.0,), range(1), ())
    assert inputs_of(encoder.cache_key(dataset), encoder, benchmark, asked) == rows[0]["inputs"]
    joint = encoder.model.joint
    assert joint is not None
    joint.card = joint.card._replace(template="[CLS]")  # of another card: measured again
    assert inputs_of(encoder.cache_key(dataset), encoder, benchmark, asked) != rows[0]["inputs"]
    joint_BD = torch.from_numpy(encoder.encode(image_BCHW)[0]["joint"])
    torch.testing.assert_close(joint_BD, encoder.model.features(image_BCHW), atol=2e-2, rtol=0)


def test_pre_training_begins_from_other_colours_and_layer_scale_with_the_same_features(
    tmp_path: Path,
) -> None:
    network = vit(img_size=32, depth=4, num_heads=4, init_values=1.0)
    torch.save(network.state_dict(), tmp_path / "augreg_in21k.pth")
    model = ours()
    assert begin_from(model, tmp_path / "augreg_in21k.pth").format == "ImageNet-21K"
    value_BCHW = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mean_C11, std_C11 = (
        torch.tensor(values).view(3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        expected_BND = patches(network)((value_BCHW - 0.5) / 0.5)
        _, found_BND = model.encoder((value_BCHW - mean_C11) / std_C11, None, 2)
    assert (found_BND[:, 1:] - expected_BND).abs().max() < 1e-4


@pytest.mark.parametrize(("content", "part"), [(clip()[0], "pre_norm True"), (None, "family")])
def test_pre_training_does_not_begin_from_another_kind_of_network(
    content: dict[str, Any] | None, part: str, flair: Path, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "weights.pth")
    model: MaskedCLIP = ours()
    with pytest.raises(ValueError, match=rf"init_from .* has {part}.* begin from a plain") as error:
        begin_from(model, tmp_path / "weights.pth" if content else flair)
    assert "\n" not in str(error.value)


def cached(hub: Path, repository: str) -> Path:
    """Return the folder of a repository in a hub's cache."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


def test_a_name_is_found_in_the_cache_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    torch.save(mae()[0], cached(tmp_path, "YukunZhou/RETFound_mae_natureCFP") / "RETFound.pth")
    network, report = load_encoder("YukunZhou/RETFound_mae_natureCFP")
    assert (report.format, report.trained_on) == ("RETFound", ("eyepacs",))
    name = "vit_large_patch14_clip_224.openai"
    save_file(vit(pre_norm=True).state_dict(), cached(tmp_path, f"timm/{name}") / "m.safetensors")
    network, report = load_encoder(name)
    assert (report.format, encoder_info(network).preparation.mean[0]) == ("OpenAI CLIP", 0.48145466)
    assert encoder_info(network).architecture["activation"] == "quick_gelu"
    known = "vit_base_patch16_224.mae"  # of timm's registry
    for absent, hint in (("facebook/dino-x", "facebook/dino-x"), (known, known)):
        with pytest.raises(ValueError, match=rf"prefetch\.py demo --init_from={hint}") as error:
            check_weights(absent)
        assert "\n" not in str(error.value)


def test_what_each_foreign_model_saw_is_on_its_card() -> None:
    papers = {"aptos2019", "idrid", "messidor2", "glaucoma_fundus", "origa", "jsiec", "retina"}
    seen = {
        name: sorted(papers & set(training_datasets(name)))
        for name in ("flair_resnet", "FLAIR", "UrFound", "RETFound_mae_natureCFP", "mae", "ours")
    }
    assert seen == {
        "flair_resnet": ["aptos2019", "idrid", "jsiec", "origa", "retina"],
        "FLAIR": ["aptos2019", "idrid", "jsiec", "origa", "retina"],
        "UrFound": ["origa"],
        "RETFound_mae_natureCFP": [],
        "mae": [],
        "ours": [],
    }


def test_methods_are_called_by_what_was_given() -> None:
    assert name_of("jusiro2/FLAIR") == "FLAIR"
    assert name_of("vit_large_patch16_224.augreg_in21k") == "vit_large_patch16_224.augreg_in21k"
    assert name_of("weights/vit-b-300ep.pth.tar") == "vit-b-300ep"

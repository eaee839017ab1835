"""Cut and mistaken files of weights end in one line with the file's name.

Damaged ones: tools/tortures/weights.py, of which tests/tools/test_torture.py runs a part.
"""

import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import maskedclip
from maskedclip.config import override
from maskedclip.models.checkpoints.files import Weights, read_checkpoint, read_safetensors
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.models.pretrained import load_encoder, recognise
from maskedclip.pretrain.preflight import prepare
from maskedclip.recipes import RECIPES
from maskedclip.weights.convert import main as convert
from tests.models.checkpoints.test_architectures import vit
from tests.untrained import exported

Tensors = dict[str, Tensor]


def test_a_file_of_an_older_version_is_read_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(vit(depth=4, num_heads=4).state_dict(), tmp_path / "encoder.safetensors",
              {"maskedclip": '{"size": "micro", "image_size": 64, "patch_size": 16}'})  # fmt: skip
    assert load_encoder(tmp_path)[1].share == 1
    assert "older version, without a sha256" in caplog.text


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    header = {"size": "micro", "word": '\N{LATIN SMALL LETTER A WITH DIAERESIS} "/\\\n\t'}
    written = set()
    for number in range(8):  # safetensors itself writes the header in a random order
        save_sealed(
            {"b": torch.ones(2), "a": torch.zeros(3)}, tmp_path / f"{number}", header, {"x": 1}
        )
        written.add((tmp_path / f"{number}").read_bytes())
    assert len(written) == 1
    (tmp_path / "0").rename(tmp_path / "0.safetensors")
    assert read_safetensors(tmp_path / "0.safetensors")[1] == header


def cut(state: Tensors, *prefixes: str) -> Tensors:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


SHAPES = {  # of a network of timm's; the block that is cut off, and what is said of it
    "vit_small_patch16_224": ("blocks.11.", "holds 11 of the 12 blocks of a ViT-S"),
    "vit_base_patch16_224": ("blocks.11.", "holds 11 of the 12 blocks of a ViT-B"),
    "vit_large_patch16_224": ("blocks.23.", "holds 23 of the 24 blocks of a ViT-L"),
    "vit_huge_patch14_224": ("blocks.31.", "holds 31 of the 32 blocks of a ViT-H"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_vit_that_is_cut_at_a_blocks_end_is_refused(name: str, tmp_path: Path) -> None:
    prefix, answer = SHAPES[name]
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    # one value a tensor: its shape is what is looked at
    state = {key: torch.zeros(1).expand(value.shape) for key, value in state.items()}
    path = tmp_path / "vit.pth"
    with pytest.raises(ValueError, match=answer) as error:
        recognise(Weights(str(path), path, cut(state, prefix), {}, {}))
    assert 'vit.pth.json beside it: {"depth": ' in str(error.value)
    if "small" in name:
        assert recognise(Weights(str(path), path, state, {}, {})).info.architecture["depth"] == 12


def test_another_depth_is_taken_where_a_file_beside_it_states_it(tmp_path: Path) -> None:
    torch.save(vit(embed_dim=192, num_heads=3, depth=5).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="holds 5 of the 12 blocks of a ViT-Ti: cut, or another"):
        load_encoder(tmp_path / "vit.pth")
    (tmp_path / "vit.pth.json").write_text('{"depth": 5}')
    assert load_encoder(tmp_path / "vit.pth")[1].share == 1
    (tmp_path / "vit.pth.json").write_text('{"depth": 6}')
    with pytest.raises(ValueError, match="holds 5 of the 6 blocks of the encoder that the config"):
        load_encoder(tmp_path / "vit.pth")


def test_a_configuration_of_transformers_says_the_depth(tmp_path: Path) -> None:
    torch.save(vit(depth=3).state_dict(), tmp_path / "vit.pth")
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 4}')
    with pytest.raises(ValueError, match="holds 3 of the 4 blocks of the encoder that the config"):
        load_encoder(tmp_path / "vit.pth")


def test_a_resnet_50_has_its_16_blocks(tmp_path: Path) -> None:
    state = torchvision.models.resnet50().state_dict()
    file = tmp_path / "resnet.pth"
    for prefix in ("layer3.5.", "layer4.2."):
        torch.save(cut(state, prefix, "fc."), file)
        with pytest.raises(ValueError, match="holds 15 of the 16 blocks of a ResNet-50: cut"):
            load_encoder(file)
    more = {name.replace("layer3.5.", "layer3.6."): t for name, t in state.items()}
    torch.save(state | more, file)
    with pytest.raises(ValueError, match="holds 17 blocks and a ResNet-50 has 16: another model"):
        load_encoder(file)
    torch.save(cut(state, "bn1.running_mean"), file)  # less than a thousandth
    with pytest.raises(ValueError, match=r"gives 9\S+% of a ResNet-50.*bn1\.running_mean"):
        load_encoder(file)


@pytest.mark.parametrize("file", ["encoder.safetensors", "model.safetensors"])
def test_a_file_of_ours_that_is_cut_at_a_blocks_end_is_refused(file: str, tmp_path: Path) -> None:
    exported(tmp_path)
    state = load_file(tmp_path / file)
    inner = "encoder." if file.startswith("model") else ""
    with safe_open(tmp_path / file, "pt") as opened:
        metadata = opened.metadata()
    del metadata["maskedclip_sha256"]
    (tmp_path / "other").mkdir()
    save_file(cut(state, f"{inner}blocks.3."), tmp_path / "other" / file, metadata)
    with pytest.raises(ValueError, match=r"3 of the 4 blocks|are missing or of another network"):
        maskedclip.load(tmp_path / "other")
    with pytest.raises(ValueError, match="holds 3 of the 4 blocks of the encoder that its header"):
        load_encoder(tmp_path / "other" / file)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = vit().state_dict()
    state["blocks.1.norm1.weight"][3] = float("nan")
    torch.save(state, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match=r"mae\.pth: blocks\.1\.norm1\.weight holds values that"):
        load_encoder(tmp_path / "mae.pth")


KINDS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git-LFS"),
    "html": (b"\n<!DOCTYPE html><title>Access is restricted</title>", "an HTML page"),
    "upper": (b"<HTML><HEAD></HEAD></HTML>", "an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML file"),
    "json": (b'{"error": "not found"}', "a JSON file"),
    "text": ("Nicht gefunden: \N{LATIN SMALL LETTER A WITH DIAERESIS}".encode(), "a text"),
    "jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
    "pdf": (b"%PDF-1.7\n", "a PDF"),
    "gz": (b"\x1f\x8b\x08\0\0\0", "a gzip archive"),
    "tar": (b"a.pth".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0"), "a tar archive"),
    "h5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(4096), "holds only zeros"),
    "noise": (bytes(range(200, 256)), "no "),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_weights_is_named_by_its_first_bytes(
    kind: str, suffix: str, tmp_path: Path
) -> None:
    content, answer = KINDS[kind]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    for read in (read_checkpoint, load_encoder, maskedclip.load):
        with pytest.raises(ValueError, match=answer) as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert "if you trust" not in str(error.value)


def test_each_kind_under_the_ending_of_the_other_is_named(tmp_path: Path) -> None:
    torch.save(vit().state_dict(), tmp_path / "a.safetensors")
    save_file(vit().state_dict(), tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"\.pth file by its content; rename it to a\.pth"):
        load_encoder(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"rename it to b\.safetensors"):
        load_encoder(tmp_path / "b.pth")


def test_zip_bombs_are_refused_before_they_are_read(tmp_path: Path) -> None:
    torch.save({"model": vit().state_dict()}, tmp_path / "mae.pth")
    with (
        zipfile.ZipFile(tmp_path / "mae.pth") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match=r"bomb\.pth: \S+ in it is compressed.*not read"):
        load_encoder(tmp_path / "bomb.pth")
    view = {"model": vit().state_dict() | {"pos_embed": torch.zeros(1).expand(1, 10**6, 10**6)}}
    torch.save(view, tmp_path / "view.pth")
    with pytest.raises(ValueError, match="pos_embed claims more values than the file has"):
        load_encoder(tmp_path / "view.pth")
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as photos:
        photos.writestr("a.jpg", b"x")
    with pytest.raises(ValueError, match=r"a zip archive \(of a\.jpg \.\.\.\) and no torch file"):
        load_encoder(tmp_path / "photos.pth")


def test_folders_and_files_that_stand_for_one_another_are_answered_in_words(
    tmp_path: Path,
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "weights.pth").mkdir()
    for path in (tmp_path / "shards", tmp_path / "weights.pth"):
        with pytest.raises(ValueError, match="a folder without weights"):
            maskedclip.load(path)
    with pytest.raises(ValueError, match="no such run or file of weights"):
        maskedclip.load(tmp_path / "weights.pth" / "encoder.pth")


def test_weights_are_looked_at_before_a_run_is_queued(tmp_path: Path) -> None:
    (tmp_path / "mae.pth").write_text("<html>")
    changes = {
        "init_from": str(tmp_path / "mae.pth"), "data.unpaired": (str(tmp_path / "phantom"),),
        "data.draw_phantoms": 1, "data.paired_batch": 0, "model.image_size": 32,
        "after.datasets": (),
    }  # fmt: skip
    config = override(RECIPES["mae"](), changes)
    with pytest.raises(ValueError, match=r"mae\.pth: an HTML page"):
        prepare(config)


@pytest.mark.parametrize("kind", ["html", "lfs", "empty", "jpg"])
def test_converting_asks_no_trust_for_what_is_no_checkpoint(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pth").write_bytes(KINDS[kind][0])
    for words in ([], ["--i_trust_this_file"]):
        with pytest.raises(SystemExit) as stopped:
            convert([str(tmp_path / "x.pth"), *words])
        message = capsys.readouterr().err
        assert (stopped.value.code, message.count("\n")) == (2, 1)
        assert "if you trust" not in message
        assert KINDS[kind][1] in message

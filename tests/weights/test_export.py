"""Weights leave a run so that other libraries open them strictly and give the same features."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from maskedclip.models.pretrained import ENCODER, MODEL, load_encoder
from maskedclip.weights.export import export, main
from maskedclip.weights.source_run import (
    example_images,
    max_difference,
    preprocessed,
    read_source,
    run_features,
)
from tests.untrained import exported


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "subject"
    exported(path)
    return path


def written(run: Path, to: str, folder: Path) -> tuple[Any, Any, Path]:
    """Return (target, source, folder) with the files of an export in the folder."""
    target, source = import_module(f"maskedclip.weights.to_{to}"), read_source(run)
    folder.mkdir(parents=True, exist_ok=True)
    target.write(source, folder, folder)
    return target, source, folder


def assert_equal(target: Any, source: Any, folder: Path) -> list[Any]:
    checks = target.compare(source, folder)
    assert checks
    for check in checks:
        assert check.limit is None or check.difference <= 1e-5, check
    return checks


def run_code(target: Any, source: Any, folder: Path, **scope: Any) -> dict[str, Any]:
    """Return the names that the code of a model card leaves, run from top to bottom."""
    code = [*target.opening_code(source, folder), *target.usage_code(source, folder)]
    with torch.no_grad():
        exec("\n".join(code), scope)
    return scope


def test_timm_opens_it_strictly_by_name_and_by_folder(run: Path, tmp_path: Path) -> None:
    target, source, folder = written(run, "timm", tmp_path)
    assert_equal(target, source, folder)
    assert 'timm.create_model("local-dir:' in target.opening_code(source, folder)[-1]
    image = example_images()[0]
    feature_BD = run_code(target, source, folder, image=image)["feature"]
    assert max_difference(feature_BD, run_features(source, preprocessed([image], 32))) <= 1e-5
    tuned = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=5)
    assert tuned.head.out_features == 5
    assert torch.equal(tuned.cls_token, source.encoder["cls_token"])


def test_transformers_opens_encoder_and_pixel_decoder_with_nothing_missing(
    run: Path, tmp_path: Path
) -> None:
    target, source, folder = written(run, "hf", tmp_path)
    checks = assert_equal(target, source, folder)
    named = run_code(target, source, folder, image=example_images()[0])
    assert named["feature"].shape == (1, 128)
    assert type(named["mae"]).__name__ == "ViTMAEForPreTraining"
    assert "pixels of the masked patches" in [check.what for check in checks]
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 36}  # 32 * 256 / 224
    assert processor["image_mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_retfound_begins_its_fine_tuning_where_ours_does(run: Path, tmp_path: Path) -> None:
    target, source, folder = written(run, "retfound", tmp_path)
    assert_equal(target, source, folder)
    for safe in (True, False):  # theirs reads with weights_only=False
        content = torch.load(folder / "subject.pth", map_location="cpu", weights_only=safe)
        assert list(content) == ["model"]
    kind = source.size
    theirs = VisionTransformer(  # with global_pool, as theirs: a fresh norm behind the mean
        img_size=32, embed_dim=kind.width, depth=kind.depth, num_heads=kind.heads, num_classes=3,
        global_pool="avg",
    ).eval()  # fmt: skip
    loaded = theirs.load_state_dict(content["model"], strict=False)
    # what their loader asserts
    assert set(loaded.missing_keys) == {
        "head.weight",
        "head.bias",
        "fc_norm.weight",
        "fc_norm.bias",
    }
    assert set(loaded.unexpected_keys) == {"norm.weight", "norm.bias"}
    ours, _ = load_encoder(run, image_size=32, num_classes=3)
    image_BCHW = preprocessed(example_images(), 32)
    with torch.no_grad():
        pooled = [
            network.eval().forward_head(network.forward_features(image_BCHW), pre_logits=True)
            for network in (theirs, ours)
        ]
    assert max_difference(*pooled) <= 1e-5


def test_onnx_runtime_gives_features_and_joint_rows_of_any_number_of_images(
    run: Path, tmp_path: Path
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    target, source, folder = written(run, "onnx", tmp_path)
    checks = assert_equal(target, source, folder)
    image = preprocessed(example_images(), 32).numpy()
    assert run_code(target, source, folder, image=image)["feature"].shape == (3, 128)
    assert [check.what for check in checks] == [
        "features", "features of one image alone", "joint features",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


def test_a_missing_package_is_named_with_the_command_to_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeError, match=r"onnxruntime.*pip install -e '\.\[export\]'"):
        export(run, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_open_clip_opens_both_towers_with_the_bridge(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    target, source, folder = written(run, "open_clip", tmp_path)
    checks = assert_equal(target, source, folder)
    assert {"image features", "text features, tokens of open_clip", "temperature"} <= {
        check.what for check in checks
    }
    assert (
        target.opening_code(source, folder)[0] == "import open_clip, maskedclip.weights.image_tower"
    )
    named = run_code(target, source, folder, image=example_images()[0])
    assert named["image_row"].shape == named["text_row"].shape == (1, 16)


def test_open_clip_needs_nothing_of_ours_where_timm_has_a_name(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    exported(tmp_path / "run", size="tiny", image_size=224, bridge_depth=0, terms=("clip",))
    target, source, folder = written(tmp_path / "run", "open_clip", tmp_path / "out")
    assert_equal(target, source, folder)
    assert target.opening_code(source, folder)[0] == "import open_clip"
    config = json.loads((folder / "open_clip_config.json").read_text())
    vision = config["model_cfg"]["vision_cfg"]
    assert vision["timm_model_name"] == "vit_tiny_patch16_224"


def test_the_class_token_and_the_sigmoids_bias_go_to_open_clip(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    exported(tmp_path / "run", pooling="cls", contrast="sigmoid")
    target, source, folder = written(tmp_path / "run", "open_clip", tmp_path / "out")
    assert_equal(target, source, folder)
    assert load_file(folder / target.WEIGHTS)["logit_bias"].item() == -10.0


@pytest.mark.parametrize("depth", [1, 0])
@pytest.mark.parametrize("to", ["timm", "hf", "onnx", "open_clip"])
@pytest.mark.parametrize(
    "kind", [{"registers": 3}, {"positions": "rotary"}, {"positions": "rotary", "registers": 3}]
)
def test_registers_go_out_and_are_no_patches_and_rotary_positions_are_dinov3s(
    to: str, depth: int, kind: dict[str, Any], tmp_path: Path
) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    if to == "open_clip":
        pytest.importorskip("open_clip")
    run = tmp_path / "run"
    exported(run, patch_size=8, bridge_depth=depth, **kind)
    target, source, folder = written(run, to, tmp_path / to)
    assert_equal(target, source, folder)
    assert len(target.notes(source)) > 0
    if to in ("timm", "hf"):
        named = run_code(target, source, folder, image=example_images()[0])
        run_BD = run_features(source, preprocessed(example_images()[:1], 32))
        assert max_difference(named["feature"], run_BD) <= 1e-5
    if to == "hf":
        name = "DINOv3ViTModel" if "positions" in kind else "Dinov2WithRegistersModel"
        assert type(named["model"]).__name__ == name
        assert "model = AutoModel" in target.opening_code(source, folder)[-1]


@pytest.mark.parametrize(
    ("kind", "what"),
    [({"registers": 3}, "3 register tokens"), ({"positions": "rotary"}, "rotary positions")],
)
def test_retfounds_network_has_no_registers_nor_rotary_positions(
    kind: dict[str, Any], what: str, tmp_path: Path
) -> None:
    exported(tmp_path / "run", **kind)
    with pytest.raises(ValueError, match=f"{what}, which RETFound's network has not; "):
        export(tmp_path / "run", "retfound")


def test_a_run_without_text_is_no_open_clip_model_but_everything_else(tmp_path: Path) -> None:
    run = tmp_path / "mae"
    exported(run, terms=("mim",))
    with pytest.raises(ValueError, match="no text tower, and open_clip needs both; use --to timm"):
        export(run, "open_clip")
    assert not (run / "export" / "open_clip").exists()
    assert_equal(*written(run, "hf", tmp_path / "hf"))
    assert (tmp_path / "hf" / "mae").is_dir()


def test_a_run_without_pixel_decoder_has_no_mae_folder(run: Path, tmp_path: Path) -> None:
    target, source, folder = written(run / ENCODER, "hf", tmp_path)
    assert_equal(target, source, folder)
    assert not (folder / "mae").exists()
    assert any("no pixel decoder" in remark for remark in target.notes(source))


def test_an_export_is_written_again_but_over_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = export(run, "retfound", out)
    assert "subject.pth" in summary
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "export.json", "subject.pth"]
    (out / "stale").write_text("of an earlier version")
    export(run, "retfound", out)
    assert not (out / "stale").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds other things than an export"):
        export(run, "retfound", tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_features_that_are_not_the_runs_leave_nothing_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = import_module("maskedclip.weights.to_retfound")
    save = torch.save

    def damaged(content: dict[str, Any], path: Path) -> None:
        wrong = content["model"]["norm.weight"] * 1.001
        save({"model": content["model"] | {"norm.weight": wrong}}, path)

    monkeypatch.setattr(target.torch, "save", damaged)
    with pytest.raises(RuntimeError, match=r"from the run's, more than 0\.0001"):
        export(run, "retfound", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_said_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuned").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "tuned" / "finetuned.safetensors")
    (tmp_path / "scaled").mkdir()
    header = {"maskedclip": json.dumps(read_source(run).header)}
    tensors = load_file(run / MODEL) | {"encoder.blocks.0.ls1.gamma": torch.ones(128)}
    save_file(tensors, tmp_path / "scaled" / MODEL, metadata=header)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "mae.pth").write_bytes(b"")
    for words, answer in (
        ([str(tmp_path / "nothing"), "--to=timm"], "no such file"),
        ([str(tmp_path / "tuned"), "--to=timm"], "has no classes"),
        ([str(tmp_path / "scaled"), "--to=timm"], r"blocks.0.ls1.gamma"),
        ([str(tmp_path / "other.safetensors"), "--to=timm"], "pre-training run"),
        ([str(tmp_path / "mae.pth"), "--to=hf"], "give a run directory"),
        ([str(run), "--to=tim"], "did you mean timm?"),
        ([str(run)], "--to is missing; use one of timm, hf"),
        (["--to=timm"], "no run given"),
        ([str(run), "--to=timm", "--oot=x"], "did you mean --out?"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        message = capsys.readouterr().err
        assert stopped.value.code == 2
        assert answer in message
        assert message.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("to", ["timm", "hf", "retfound", "onnx", "open_clip"])
def test_a_large_vit_goes_out_under_the_names_that_others_have(to: str, tmp_path: Path) -> None:
    run = tmp_path / "large"
    exported(run, size="large", image_size=224, projection=512)
    target, source, folder = written(run, to, tmp_path / to)
    for check in target.compare(source, folder):
        sys.stdout.write(f"{to}: {check.difference:.1e} {check.what}\n")
        assert check.limit is None or check.difference <= 1e-5, check
    if to == "timm":
        line = target.opening_code(source, folder)[-1]
        assert line.endswith(f'create_model("local-dir:{folder}", pretrained=True).eval()')
    if to == "retfound":
        command = target.opening_code(source, folder)[-1]
        assert command.startswith("python main_finetune.py --model vit_large_patch16 --finetune")

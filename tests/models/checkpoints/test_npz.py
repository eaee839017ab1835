"""Google's .npz of ViTs gives what timm reads from it, and is refused where it is damaged."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from maskedclip.models.pretrained import encoder_info, load_encoder
from tests.models.checkpoints.test_architectures import IMAGENET, SIZE, WIDTH

HEADS, HEAD = 2, 64


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """A ViT of two blocks under the names that AugReg's files have."""
    draw = np.random.default_rng(3)

    def of(*shape: int, spread: float = 0.05) -> np.ndarray:
        return draw.normal(0, spread, shape).astype(np.float32)

    found = {
        "cls": of(1, 1, WIDTH), "embedding/kernel": of(16, 16, 3, WIDTH),
        "embedding/bias": of(WIDTH), "Transformer/encoder_norm/scale": of(WIDTH) + 1,
        "Transformer/posembed_input/pos_embedding": of(1, (SIZE // 16) ** 2 + 1, WIDTH),
        "Transformer/encoder_norm/bias": of(WIDTH), "pre_logits/kernel": of(WIDTH, WIDTH),
        "head/kernel": of(WIDTH, 5), "head/bias": of(5),
    }  # fmt: skip
    for block in range(2):
        stem = f"Transformer/encoderblock_{block}/"
        mixing, mlp = f"{stem}MultiHeadDotProductAttention_1/", f"{stem}MlpBlock_3/"
        for part in ("query", "key", "value"):
            found[f"{mixing}{part}/kernel"] = of(WIDTH, HEADS, HEAD)
            found[f"{mixing}{part}/bias"] = of(HEADS, HEAD)
        found[f"{mixing}out/kernel"] = of(HEADS, HEAD, WIDTH)
        found[f"{mixing}out/bias"] = of(WIDTH)
        for number, (wide, out) in enumerate(((WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))):
            found[f"{mlp}Dense_{number}/kernel"] = of(wide, out)
            found[f"{mlp}Dense_{number}/bias"] = of(out)
        for norm in (0, 2):
            found[f"{stem}LayerNorm_{norm}/scale"] = of(WIDTH, spread=0.2) + 1
            found[f"{stem}LayerNorm_{norm}/bias"] = of(WIDTH)
    return found


def test_its_features_are_those_that_timm_reads_from_it(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "B_16-i21k-300ep-augreg.npz"
    np.savez(path, **arrays)
    theirs = VisionTransformer(
        img_size=SIZE, embed_dim=WIDTH, depth=2, num_heads=HEADS, num_classes=0
    )
    theirs.load_pretrained(str(path))
    network, report = load_encoder(path, global_pool="token")
    assert (report.format, report.share, report.missing) == ("ImageNet-21K", 1.0, [])
    assert report.unexpected == ["head.bias", "head.weight", "pre_logits.weight"]
    assert encoder_info(network).preparation.mean == (0.5, 0.5, 0.5) != IMAGENET
    image_BCHW = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected_BLD = theirs.eval().forward_features(image_BCHW)
        found_BLD = network.eval().forward_features(image_BCHW)
    assert found_BLD.std() > 0.1
    assert (found_BLD - expected_BLD).abs().max() <= 1e-5


def test_a_damaged_or_strange_npz_is_refused_by_name(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "augreg.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    at = whole.index(arrays["cls"].tobytes()[:64])
    narrow = {k: v.reshape(WIDTH, 4, 32) if "query/kernel" in k else v for k, v in arrays.items()}
    for write, answer in (
        (lambda: path.write_bytes(whole[:-200]), "not a whole .npz"),
        (lambda: path.write_bytes(whole[:at] + b"\1" + whole[at + 1 :]), "not a whole .npz.*CRC"),
        (lambda: np.savez_compressed(path, **arrays), "is compressed"),
        (lambda: np.savez(path, x=np.ones(3)), "no embedding/kernel among its arrays"),
        (lambda: np.savez(path, x=np.array([{}], dtype=object)), "not a whole .npz"),
        (lambda: np.savez(path, **narrow), "heads of 32 channels"),
    ):
        write()
        with pytest.raises(ValueError, match=answer) as error:
            load_encoder(path)
        assert re.search(r"augreg\.npz", str(error.value))
        assert "\n" not in str(error.value)

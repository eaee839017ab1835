"""Stand-ins for published models: their architectures with random weights, in their own layout.

python -m tests.models.stand_ins FOLDER

Each network is built and initialised by the library that defines it (timm, torchvision, open_clip,
transformers), at its published size but for the text towers, of two layers and a small vocabulary.
They show that a table takes such files, and say nothing of the models.
"""

import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torchvision
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from tests.models.checkpoints.test_architectures import renamed

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = string.ascii_lowercase + string.digits + string.punctuation
ENGLISH = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS))  # any word is spelt
_JOINT, _TEXT = 512, 128


def _text(words: int) -> dict[str, Tensor]:
    config = BertConfig(
        vocab_size=words, hidden_size=_TEXT, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=4 * _TEXT,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).state_dict()


def retfound_green() -> dict[str, Any]:
    network = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=(392, 392), num_classes=0)
    return network.state_dict()


def dinov3(network: nn.Module | None = None) -> dict[str, Any]:
    """ViT-S/16, with the names of its own code; of timm's network, by default as it is drawn."""
    network = network or timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0)
    tensors = renamed(network, (r"\.gamma_(\d)", r".ls\1.gamma"), ("reg_token", "storage_tokens"))
    for block in range(12):
        stem = f"blocks.{block}.attn"
        query_D, value_D = tensors.pop(f"{stem}.q_bias"), tensors.pop(f"{stem}.v_bias")
        key_D = torch.full_like(query_D, torch.nan)  # which its mask leaves out
        tensors[f"{stem}.qkv.bias"] = torch.cat([query_D, torch.zeros_like(query_D), value_D])
        tensors[f"{stem}.qkv.bias_mask"] = torch.cat([query_D * 0 + 1, key_D, value_D * 0 + 1])
    return tensors | {"rope_embed.periods": 100 ** (torch.arange(16) / 16)}


def flair() -> dict[str, Any]:
    network = torchvision.models.resnet50()
    network.fc = nn.Identity()
    tensors = renamed(network, before="vision_model.model.")
    tensors |= {f"text_model.model.{name}": t for name, t in _text(len(ENGLISH)).items()}
    for tower, part, width in (("vision_model", "vision", 2048), ("text_model", "text", _TEXT)):
        head = nn.Linear(width, _JOINT, bias=False)
        tensors[f"{tower}.projection_head_{part}.projection.weight"] = head.weight.detach()
    return tensors | {"logit_scale": torch.tensor(2.66)}


def eyeclip() -> dict[str, Any]:
    """ViT-B/32 of OpenAI's CLIP, and the decoder that its pre-training added."""
    model = open_clip.model.CLIP(
        embed_dim=_JOINT,
        vision_cfg={"layers": 12, "width": 768, "patch_size": 32, "image_size": 224},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
        quick_gelu=True,
    )
    decoder = {"visual.decoder.decoder_pos_embed": torch.zeros(1, 50, 512)}
    return {"epoch": 1, "model_state_dict": model.state_dict() | decoder}


# by card: the name of the file, its content, its vocabulary
STAND_INS: dict[str, tuple[str, Callable[[], dict[str, Any]], Sequence[str]]] = {
    "RETFound-Green": ("random_retfound_green.pth", retfound_green, ()),
    "DINOv3": ("random_dinov3_vits16.pth", dinov3, ()),
    "FLAIR": ("random_flair.pth", flair, ENGLISH),
    "EyeCLIP": ("random_eyeclip.pt", eyeclip, ()),
}


def write_stand_ins(folder: Path, cards: Sequence[str] = tuple(STAND_INS)) -> dict[str, Path]:
    """Write each file into a folder of its own, with its vocabulary; return them by card."""
    paths = {}
    for card in cards:
        name, make, words = STAND_INS[card]
        torch.manual_seed(0)
        paths[card] = folder / Path(name).stem / name
        paths[card].parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), paths[card])
        if words:
            (paths[card].parent / "vocab.txt").write_text("\n".join(words) + "\n")
    return paths


if __name__ == "__main__":
    for path in write_stand_ins(Path(sys.argv[1])).values():
        sys.stdout.write(f"{path}\n")

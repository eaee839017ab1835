"""Third-party state dicts under timm's names: prefixes off, attention fused, axes added.

A layout is a table of (regular expression, replacement), applied in order; one tensor shows which
layout a file has.
"""

import math
import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

# what wraps a module without being part of it
_WRAPPERS = r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
# a tensor that each encoder begins with; what stands before it is the encoder's prefix
_FIRST = (
    "cls_token",
    "class_embedding",
    "embeddings.cls_token",
    "embeddings.class_embedding",
    "conv1.weight",
)
# of several encoders in a file, one with none of these words in its prefix is taken
_OTHERS = ("momentum", "student", "ema", "decoder", "text")
_CONSTANTS = ".bias_mask"  # of DINOv3: made anew by any network
_ROTARY = re.compile(r"(?<![^.])(rope|rotary)\w*\.")  # the module that turns queries and keys

_TIMM = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's chunks; the second number counts through
    (r"^(register_tokens|storage_tokens)$", "reg_token"),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"\.attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attn\.([qkv])_bias$", r".attn.\1.bias"),
)
_OPENAI = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.in_proj_(weight|bias)$", r".qkv.\1"),
    (r"\.out_proj\.", ".proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.ls_([12])\.gamma$", r".ls\1.gamma"),
)
_TRANSFORMERS = (
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.(position_embeddings|position_embedding\.weight)$", "pos_embed"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
    (r"^(encoder\.|model\.)?layers?\.", "blocks."),
    (r"^(layernorm|post_layernorm)\.", "norm."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"\.(attention\.attention|attention|self_attn)\.(q|k|v)(uery|ey|alue|_proj)\.", r".attn.\2."),
    (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)
_LAYOUTS = {
    "class_embedding": _OPENAI,
    "embeddings.cls_token": _TRANSFORMERS,
    "embeddings.class_embedding": _TRANSFORMERS,
    "cls_token": _TIMM,
    "conv1.weight": (),  # a ResNet: torchvision's names are timm's
}


def without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by their names without what wraps a module, such as `module.`."""
    return {re.sub(_WRAPPERS, "", name): tensor for name, tensor in tensors.items()}


def to_timm_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the encoder's tensors under timm's names, and the names of the file's other tensors.

    Those of text towers and second encoders keep their own names; what `rotary_of` returns is left
    out. Raises ValueError where no ViT or ResNet begins.
    """
    plain = without_wrappers(tensors)
    prefix = _prefix(plain)
    turning = rotary_of(tensors)
    inside = {
        name.removeprefix(prefix): tensor
        for name, tensor in plain.items()
        if name.startswith(prefix) and not name.endswith(_CONSTANTS) and name not in turning
    }
    others = [name for name in plain if not name.startswith(prefix) and name not in turning]
    first = next(name for name in _LAYOUTS if name in inside)
    renamed: dict[str, Tensor] = {}
    gated = any(".mlp.gate_proj." in name for name in inside)
    for name, tensor in inside.items():
        for pattern, replacement in _LAYOUTS[first]:
            name = re.sub(pattern, replacement, name)
        name = name.replace(".mlp.up_proj.", ".mlp.fc1_x." if gated else ".mlp.fc1.")
        renamed[name] = tensor
    _merge_low_rank(renamed)
    _fuse(renamed)
    _shape(renamed)
    return renamed, others


def rotary_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a file stores of its encoder's rotary positions, by the file's own names.

    It lies in the encoder, in a block of it or in what holds the encoder. Raises ValueError where
    no ViT or ResNet begins.
    """
    plain = without_wrappers(tensors)
    prefix = _prefix(plain)

    def is_ours(module: str) -> bool:
        within = module.startswith(prefix)
        if within:  # a decoder or text tower may be in there, too
            return not any(word in module.removeprefix(prefix) for word in _OTHERS)
        return prefix.startswith(module)

    found = ((name, _ROTARY.search(name)) for name in plain)
    return {name: plain[name] for name, match in found if match and is_ours(name[: match.start()])}


def _prefix(names: Collection[str]) -> str:
    prefixes = {
        name.removesuffix(first)
        for name in names
        for first in _FIRST
        if name == first or name.endswith(f".{first}")
    }
    if not prefixes:
        if any(name.endswith(("attn_pool.latent", "head.probe")) for name in names):
            raise ValueError(
                "SigLIP's encoder, without a class token, which is not read; use a CLIP"
            )
        raise ValueError("no cls_token, class_embedding or conv1 among its tensors, so no encoder")

    def rank(prefix: str) -> tuple[bool, int, str]:
        return any(word in prefix for word in _OTHERS), len(prefix), prefix

    return min(prefixes, key=rank)


def _merge_low_rank(tensors: dict[str, Tensor]) -> None:
    """Add RetiZero's low-rank changes of queries and values to the weights that they change."""
    for name in [name for name in tensors if name.endswith(".attn.qkv.qkv.weight")]:
        stem = name.removesuffix("qkv.weight")
        weight_ED = tensors.pop(name).float()
        width = weight_ED.shape[1]
        for part, rows in (("q", slice(width)), ("v", slice(-width, None))):
            up, down = (tensors.pop(f"{stem}linear_{ab}_{part}.weight", None) for ab in "ba")
            if up is None or down is None:
                raise ValueError(f"no {stem}linear_a_{part} or linear_b_{part} among its tensors")
            weight_ED[rows] += up.float() @ down.float()
        tensors[f"{stem}weight"] = weight_ED
        if f"{stem}qkv.bias" in tensors:
            tensors[f"{stem}bias"] = tensors.pop(f"{stem}qkv.bias")


def _fuse(tensors: dict[str, Tensor]) -> None:
    """Put separate queries, keys and values into one tensor; a bias that is left out is zero."""
    for name in [name for name in tensors if name.endswith(".attn.q.weight")]:
        stem = name.removesuffix("q.weight")
        weights = [tensors.pop(f"{stem}{part}.weight") for part in "qkv"]
        tensors[f"{stem}qkv.weight"] = torch.cat(weights)
    for name in [name for name in tensors if name.endswith(".attn.q.bias")]:
        stem = name.removesuffix("q.bias")
        zero = torch.zeros_like(tensors[name])
        biases = [tensors.pop(f"{stem}{part}.bias", zero) for part in "qkv"]
        tensors[f"{stem}qkv.bias"] = torch.cat(biases)


def _shape(tensors: dict[str, Tensor]) -> None:
    """Give class token and positions their axes; take a class position out from under registers."""
    for name, axes in (("cls_token", 3), ("pos_embed", 3)):
        while name in tensors and tensors[name].ndim < axes:
            tensors[name] = tensors[name][None]
    if "reg_token" in tensors and not tensors["reg_token"].shape[1]:
        del tensors["reg_token"]
    position_1ND = tensors.get("pos_embed")
    if position_1ND is None or "reg_token" not in tensors:
        return
    if math.isqrt(position_1ND.shape[1] - 1) ** 2 == position_1ND.shape[1] - 1:
        # as timm has it: only patches have positions, that of [CLS] is added to it for good
        tensors["cls_token"] = tensors["cls_token"] + position_1ND[:, :1]
        tensors["pos_embed"] = position_1ND[:, 1:]

"""The maps of one image that a loaded network can give."""

import difflib
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from maskedclip.explain import attention
from maskedclip.explain.command import METHODS, check_methods
from maskedclip.inference import Model
from maskedclip.models.checkpoints.architectures import Network
from maskedclip.models.maskedclip import MaskedCLIP

logger = logging.getLogger(__name__)
PROMPTS = ("hard exudates", "haemorrhages", "drusens", "large optic cup")


class Map(NamedTuple):
    """One map of one image."""

    method: str
    about: str  # class or prompt; empty where the method takes none
    value_RC: np.ndarray  # rows and columns of patches
    probability: float | None = None  # of that class or prompt, among all classes or prompts
    head_HRC: np.ndarray | None = None  # of cls: the heads, whose mean is value_RC


class MapRequest(NamedTuple):
    """Which maps are made of every image."""

    methods: tuple[str, ...]
    prompts: tuple[str, ...]
    class_YD: Tensor | None  # of the prompts
    classes: tuple[str, ...]  # of the head


def request_maps(
    model: Model, methods: Sequence[str], prompts: Sequence[str], classes: Sequence[str]
) -> MapRequest:
    """Return the maps that these weights support; an unsupported method is left out with a warning.

    Raises ValueError where none is left, for classes that the head does not have, and for prompts
    without a text tower.
    """
    check_methods(methods)
    if not isinstance(model.network, MaskedCLIP | VisionTransformer):
        if isinstance(model.network, ResNet):
            raise ValueError(f"{model.source}: a ResNet, without attention to draw; use a ViT")
        raise ValueError(
            f"{model.source}: rotary positions, of which maps are drawn in a whole run with a text "
            f"tower alone; use such a run, or weights without them"
        )
    pools_cls = isinstance(model.network, MaskedCLIP) and model.network.pools_cls
    reads_text = isinstance(model.network, MaskedCLIP)  # maps of third-party texts: not made
    able = {"rollout": True, "cls": True, "text": reads_text and not pools_cls}
    able["relevance"] = bool(model.classes) or able["text"]
    missing = [name for name in methods if not able[name]]
    lacks = {"text": "no text tower", "relevance": "neither a fine-tuned head nor a text tower"}
    if pools_cls:
        lacks = dict.fromkeys(lacks, "the mean of the patches (they have model.pooling=cls)")
    for name in missing:
        reason = f"{name} needs what these weights lack: {lacks[name]}"
        if len(missing) == len(methods):
            raise ValueError(f"--methods={','.join(methods)}: {reason}; use rollout or cls")
        logger.warning("%s; it is left out", reason)
    if prompts and not reads_text:
        raise ValueError(f"--prompts={','.join(prompts)}: these weights have no text tower of ours")
    for name in classes:
        if name not in model.classes:
            near = difflib.get_close_matches(name, model.classes, n=1)
            has = ", ".join(model.classes) or "none: this is no fine-tuned network"
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"--classes: no class {name!r}; {hint}the head has {has}")
    class_YD = None
    if reads_text:
        prompts = tuple(prompts) or PROMPTS
        class_YD = model.class_embeddings([model.prompts(name) for name in prompts])
    kept = tuple(name for name in METHODS if name in methods and able[name])
    return MapRequest(kept, tuple(prompts), class_YD, tuple(classes))


def maps_of(model: Model, image_1CHW: Tensor, request: MapRequest) -> list[Map]:
    """Return the maps of one normalised image, in the order of METHODS."""
    network, image_1CHW = model.network, image_1CHW.to(model.device)
    layers, heads, last = _layers(network)
    with torch.enable_grad(), attention.recorded(layers, images=1, heads=heads) as records:
        patch_ND, score_Y = _scores(network, image_1CHW, request)
    assert len(records) == len(layers)
    maps, patches = list[Map](), len(patch_ND)
    if "rollout" in request.methods:
        mixing = attention.rollout([layer.attention() for layer in records])
        maps.append(Map("rollout", "", _grid(attention.mean_over_patches(mixing, patches)[0])))
    if "cls" in request.methods:
        head_HRC = _grid(attention.cls_row(records[last].attention(), patches)[0])
        maps.append(Map("cls", "", head_HRC.mean(axis=0), head_HRC=head_HRC))
    probability_Y = _probabilities(model, score_Y)
    single = len(probability_Y) == 1  # one prompt: its probability would always be 1
    if "relevance" in request.methods:
        names = model.classes or request.prompts
        chosen = request.classes or names
        if model.classes and not request.classes:
            chosen = (names[int(probability_Y.argmax())],)
        for name in chosen:
            index = names.index(name)
            pair_1LL = attention.relevance(score_Y[index], records)
            value_RC = _grid(attention.mean_over_patches(pair_1LL, patches)[0])
            share = None if single else float(probability_Y[index])
            maps.append(Map("relevance", name, value_RC, share))
    if "text" in request.methods:
        assert request.class_YD is not None
        cosine_YN = attention.similarity(patch_ND[None], request.class_YD.to(patch_ND.device))[0]
        for name, cosine_N, probability in zip(
            request.prompts, cosine_YN, probability_Y, strict=True
        ):
            share = None if single else float(probability)
            maps.append(Map("text", name, _grid(cosine_N), share))
    return maps


def _layers(network: MaskedCLIP | Network) -> tuple[list[nn.Module], int, int]:
    """Return the attention layers before the pooling, their heads, and the encoder's last layer.

    In a whole MaskedCLIP the bridge follows the encoder; its last [CLS] is read by nothing.
    """
    if isinstance(network, MaskedCLIP):
        blocks = [*network.encoder.blocks, *network.bridge.blocks]
        layers = [block.get_submodule("attn") for block in blocks]
        return layers, int(layers[0].heads), len(network.encoder.blocks) - 1
    assert isinstance(network, VisionTransformer)
    layers = [block.get_submodule("attn") for block in network.blocks]
    return layers, int(layers[0].num_heads), len(layers) - 1


def _scores(
    network: MaskedCLIP | Network, image_1CHW: Tensor, request: MapRequest
) -> tuple[Tensor, Tensor]:
    """Return the last tokens of the patches, and a score a class or prompt: logit or cosine."""
    if isinstance(network, VisionTransformer):
        token_1ND = network.forward_features(image_1CHW)
        score_1Y = network.forward_head(token_1ND)
        return token_1ND[0, network.num_prefix_tokens :], score_1Y[0]
    assert request.class_YD is not None
    assert isinstance(network, MaskedCLIP)
    _, whole_1ND = network.encoder(image_1CHW, None, 1)
    # the projection is linear: the image's row is the mean of these, at unit length
    patch_ND = network.image_projection(network.bridge(whole_1ND)[0, 1:])
    image_D = nn.functional.normalize(patch_ND.mean(dim=0), dim=-1)
    return patch_ND, request.class_YD.to(image_D.device) @ image_D


def _probabilities(model: Model, score_Y: Tensor) -> Tensor:
    if model.classes:
        return model.head.answers(score_Y.detach()[None])[0].cpu()
    scale = model.network.temperature() if isinstance(model.network, MaskedCLIP) else 1.0
    return (scale * score_Y).detach().double().softmax(dim=-1).cpu()


def _grid(map_N: Tensor) -> np.ndarray:
    return attention.as_grid(map_N.detach()).double().cpu().numpy()

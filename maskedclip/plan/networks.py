"""The shapes of a run's networks, read from the networks themselves, built without memory."""

from typing import TYPE_CHECKING

from maskedclip.config import Config
from maskedclip.plan.shapes import Network, Part, absent

if TYPE_CHECKING:
    from torch import nn
    from transformers import BertModel

# vocabularies of BERTs of the base shape, whose files a login node may lack
KNOWN_BERTS = {"emilyalsentzer/Bio_ClinicalBERT": 28_996}


def network_of(config: Config) -> tuple[Network, list[str]]:
    """Return the shapes of the run's networks, and what had to be assumed about them.

    Raises ValueError for a text tower that is neither on this machine nor known, and for DINOv2.
    """
    if config.loss.dino:
        raise ValueError(
            f"{config.name}: the cost of dinov2 (loss.dino) is not counted yet; measure a few "
            f"steps with --optim.steps=20"
        )
    import torch

    from maskedclip.models.maskedclip import SIZES, MaskedCLIP
    from maskedclip.models.text import TextTower
    from maskedclip.pretrain.loop import model_shape

    shape, assumed, tower = config.model, list[str](), None
    outside = ("text", "text_tokens", "text_dropout")
    with torch.device("meta"):
        if config.loss.clip:
            bert, assumed = _bert(shape.text)
            tower = TextTower(bert=bert, projection=shape.projection)
        keywords = {k: v for k, v in model_shape(config).items() if k not in outside}
        model = MaskedCLIP(text=tower, **keywords)
    kind = SIZES[shape.size]
    wide = (kind.width, 4 * kind.width, kind.heads)
    small = (kind.decoder_width, 4 * kind.decoder_width, kind.decoder_heads)
    values = 3 * shape.patch_size**2
    pixels, features, text, heads = absent("D_I"), absent("D_F"), absent("E_T"), 0
    if config.loss.mim:
        blocks = model.pixel_decoder.blocks
        pixels = _part("D_I", model.pixel_decoder, blocks, *small, kind.width, values)
    if config.loss.mfd:
        blocks = model.feature_decoder.blocks
        features = _part("D_F", model.feature_decoder, blocks, *wide, kind.width, kind.width)
    if tower is not None:
        sizes = tower.bert.config
        base = (sizes.hidden_size, sizes.intermediate_size, sizes.num_attention_heads)
        text = _part("E_T", tower.bert, tower.bert.encoder.layer, *base)
        parts = (model.image_projection, tower.projection, *model.exact())
        heads = sum(_count(part) for part in parts)
    network = Network(
        encoder=_part("E_I", model.encoder, model.encoder.blocks, *wide),
        pixel_decoder=pixels,
        feature_decoder=features,
        bridge=_part("B", model.bridge, model.bridge.blocks, *wide),
        text=text,
        projections=heads,
        projection=shape.projection,
        patches=(shape.image_size // shape.patch_size) ** 2,
        visible=model.visible,
        patch_values=values,
        image_values=3 * shape.image_size**2,
        bridge_shared=shape.bridge_shared,
        distils_hidden=shape.feature_patches == "hidden",
    )
    assert network.parameters == _count(model)
    return network, assumed


def _count(module: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _part(name: str, module: "nn.Module", blocks: "nn.ModuleList", *sizes: int) -> Part:
    width, hidden, heads, *ends = sizes
    unit = _count(blocks[0]) if len(blocks) else 0
    rest = _count(module) - len(blocks) * unit
    return Part(name, len(blocks), width, hidden, heads, unit, rest, *ends)


def _bert(name: str) -> tuple["BertModel", list[str]]:
    """Return a BERT without values, and the note that its shape was assumed, if it was."""
    from transformers import BertConfig, BertModel

    from maskedclip.models.text import build_text

    try:
        tower, _ = build_text(name, projection=1, dropout=0.0, max_tokens=1, pretrained=False)
    except ValueError:
        if name not in KNOWN_BERTS:
            raise
        config = BertConfig(vocab_size=KNOWN_BERTS[name])  # BERT base is its default
        note = f"E_T: {name} is not on this machine; BERT base with its {config.vocab_size:,} words"
        return BertModel(config, add_pooling_layer=False), [note]
    return tower.bert, []

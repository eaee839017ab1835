"""The shapes of a run's networks, read from the networks themselves, built without memory."""

from typing import TYPE_CHECKING

from maskedclip.config import ModelConfig
from maskedclip.engine.network import Network, Part

if TYPE_CHECKING:
    from torch import nn
    from transformers import BertModel

# vocabularies of BERTs of the base shape, whose files a login node may lack
KNOWN_BERTS = {"emilyalsentzer/Bio_ClinicalBERT": 28_996}


def network_of(shape: ModelConfig) -> tuple[Network, list[str]]:
    """Return the shapes of the run's networks, and what had to be assumed about them.

    Raises ValueError for a text tower that is neither on this machine nor known.
    """
    import torch

    from maskedclip.models.maskedclip import SIZES, MaskedCLIP
    from maskedclip.models.text import TextTower

    with torch.device("meta"):
        bert, assumed = _bert(shape.text)
        model = MaskedCLIP(
            size=shape.size,
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            mask_ratio=shape.mask_ratio,
            bridge_depth=shape.bridge_depth,
            feature_decoder_depth=shape.feature_decoder_depth,
            projection=shape.projection,
            text=TextTower(bert=bert, projection=shape.projection),
        )
    kind = SIZES[shape.size]
    wide = (kind.width, 4 * kind.width, kind.heads)
    small = (kind.decoder_width, 4 * kind.decoder_width, kind.decoder_heads)
    values = 3 * shape.patch_size**2
    tower = bert.config
    base = (tower.hidden_size, tower.intermediate_size, tower.num_attention_heads)
    pixels, features = model.pixel_decoder, model.feature_decoder
    heads = (model.image_projection, model.text.projection, model.temperature)
    network = Network(
        encoder=_part("E_I", model.encoder, model.encoder.blocks, *wide),
        pixel_decoder=_part("D_I", pixels, pixels.blocks, *small, kind.width, values),
        feature_decoder=_part("D_F", features, features.blocks, *wide, kind.width, kind.width),
        bridge=_part("B", model.bridge, model.bridge.blocks, *wide),
        text=_part("E_T", bert, bert.encoder.layer, *base),
        projections=sum(_count(head) for head in heads),
        projection=shape.projection,
        patches=(shape.image_size // shape.patch_size) ** 2,
        visible=model.visible,
        patch_values=values,
        image_values=3 * shape.image_size**2,
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

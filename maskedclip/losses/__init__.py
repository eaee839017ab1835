"""One file a term; these names are the public way to them."""

from maskedclip.losses.contrastive import label_guided_clip_loss
from maskedclip.losses.dino import dino_loss
from maskedclip.losses.distillation import centred_features, masked_feature_loss
from maskedclip.losses.ibot import ibot_loss
from maskedclip.losses.koleo import koleo_loss
from maskedclip.losses.prototypes import centred, mean_logits, sinkhorn
from maskedclip.losses.reconstruction import masked_pixel_loss
from maskedclip.losses.sigmoid import sigmoid_clip_loss

__all__ = [
    "centred",
    "centred_features",
    "dino_loss",
    "ibot_loss",
    "koleo_loss",
    "label_guided_clip_loss",
    "masked_feature_loss",
    "masked_pixel_loss",
    "mean_logits",
    "sigmoid_clip_loss",
    "sinkhorn",
]

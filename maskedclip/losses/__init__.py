"""One file a term; these names are the public way to them."""

from maskedclip.losses.contrastive import label_guided_clip_loss
from maskedclip.losses.distillation import masked_feature_loss
from maskedclip.losses.reconstruction import masked_pixel_loss
from maskedclip.losses.sigmoid import sigmoid_clip_loss

__all__ = [
    "label_guided_clip_loss",
    "masked_feature_loss",
    "masked_pixel_loss",
    "sigmoid_clip_loss",
]

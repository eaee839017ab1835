"""The student's weights at step 0: random by the seed, or those of init_from."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from maskedclip.config import Config
from maskedclip.models.maskedclip import MaskedCLIP, build
from maskedclip.models.text import Tokenizer

logger = logging.getLogger(__name__)
_NOT_OF_A_NETWORK = ("teacher_momentum", "mask_unit")  # fields of ModelConfig


def shape_of(config: Config, terms: Sequence[str]) -> dict[str, Any]:
    """Return what a run's networks are built from; exported files carry it in their headers."""
    shape = {k: v for k, v in asdict(config.model).items() if k not in _NOT_OF_A_NETWORK}
    return shape | {"contrast": config.loss.contrast, "terms": tuple(terms)}


def encoder_shape(config: Config) -> dict[str, Any]:
    """Return the shape of a run that leaves an encoder alone."""
    return shape_of(config, ())


def initial(config: Config, shape: Mapping[str, Any]) -> tuple[MaskedCLIP, Tokenizer]:
    """Return the networks of `shape` and their tokenizer, equal on every rank.

    A checkpoint of the run itself is loaded over them later.
    """
    torch.manual_seed(config.seed)
    model, tokenize = build(**shape)
    if config.init_from:
        from maskedclip.models.pretrained import begin_from  # loads timm, in seconds

        logger.info("%s", begin_from(model, config.init_from))
    return model, tokenize

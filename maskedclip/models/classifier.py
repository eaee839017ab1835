"""An encoder with a head for classes, labels or a number: made to be fine-tuned, written, read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from maskedclip.models.checkpoints.architectures import (
    Network,
    plain_architecture,
    prefix_positions,
    resampled_positions,
)
from maskedclip.models.checkpoints.files import FINETUNED, read_checkpoint
from maskedclip.models.checkpoints.load_report import load_all
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.models.maskedclip import SIZES
from maskedclip.models.pretrained import (
    LoadReport,
    encoder_info,
    load_encoder,
    read_weights,
    recognise,
    untrained_network,
)

__all__ = [
    "FINETUNED", "TaskHead", "adamw_by_layer", "build_classifier", "on_device", "read_classifier",
    "write_classifier",
]  # fmt: skip


class TaskHead(NamedTuple):
    """What the outputs of a fine-tuned head mean: a class, labels each by itself, or a number."""

    kind: str = "class"  # or "labels", "number"
    mean: float = 0.0  # of a number in the training split
    std: float = 1.0

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> "TaskHead":
        """Return the head that a file's header names; one that names none is of classes."""
        return cls(**{name: header[name] for name in cls._fields if name in header})

    @property
    def facts(self) -> dict[str, Any]:
        """What a header says of it; of classes nothing, as it always was."""
        if self.kind == "class":
            return {}
        return {"kind": self.kind} if self.kind == "labels" else self._asdict()

    def answers(self, logit_BY: Tensor) -> Tensor:
        """Return probability_BY, or the number in its own unit, in float64."""
        logit_BY = logit_BY.double()
        if self.kind == "number":
            return logit_BY * self.std + self.mean
        return logit_BY.sigmoid() if self.kind == "labels" else logit_BY.softmax(dim=-1)

    def loss(
        self,
        logit_BY: Tensor,
        target: Tensor,
        smoothing: float,
        weight_Y: Tensor | None = None,
    ) -> Tensor:
        """Return cross-entropy, binary cross-entropy a label, or Huber's loss of a number.

        Huber's is quadratic up to one standard deviation and linear beyond. Smoothing draws a
        label's target from 0 and 1 towards 1/2; a number has none. Only classes have weights.
        """
        if self.kind == "number":
            return F.huber_loss(logit_BY, target)
        if self.kind == "labels":
            target_BY = target * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(logit_BY, target_BY)
        return F.cross_entropy(logit_BY, target, weight_Y, label_smoothing=smoothing)

    def targets(self, answers: Any, device: torch.device) -> Tensor:
        """Return label_B, rows of 0 and 1, or standardised numbers (one column).

        The host does not wait for the copy to `device`.
        """
        target = torch.as_tensor(answers)
        if self.kind == "number":
            target = ((target - self.mean) / self.std).float()[:, None]
        elif self.kind == "labels":
            target = target.float()
        if torch.cuda.is_available():  # pageable memory would be waited for
            target = target.pin_memory()
        return target.to(device, non_blocking=True)


def build_classifier(
    weights: str, *, image_size: int, num_classes: int, drop_path: float, size: str
) -> tuple[Network, LoadReport]:
    """Return the encoder of `weights` with a fresh head on the mean of its patch tokens or map.

    Args:
        size: of the encoder where weights is "random", else ignored.
    """
    model, report = load_encoder(
        weights, image_size=image_size, num_classes=num_classes, drop_path=drop_path, size=size
    )
    head = model.get_classifier()
    assert isinstance(head, nn.Linear)
    nn.init.trunc_normal_(head.weight, std=2e-5)  # MAE: the first outputs are all alike
    nn.init.zeros_(head.bias)
    return model, report


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the network there; on a GPU the weights of a ResNet lie channels last.

    Its convolutions then run so, whatever the images are, without a transposition at each.
    """
    if device.type != "cpu" and not hasattr(model, "blocks"):
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def adamw_by_layer(model: nn.Module, *, layer_decay: float, weight_decay: float) -> AdamW:
    """Return AdamW whose groups have an lr_scale: layer_decay^(blocks + 1 - layer), as in MAE.

    Layer 0 is patch embedding, positions and [CLS], then the blocks, then the head with its norm.
    Nothing 1-D decays, nor positions, [CLS] and registers. A ResNet has one rate (RETFound).
    """
    groups = param_groups_layer_decay(
        model,
        weight_decay=weight_decay,
        no_weight_decay_list=("pos_embed", "cls_token", "reg_token"),
        layer_decay=layer_decay if hasattr(model, "blocks") else 1.0,
    )
    return AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=True)


def write_classifier(
    model: nn.Module,
    path: Path,
    classes: Sequence[str],
    facts: Mapping[str, Any],
    images: Mapping[str, Any] | None = None,
) -> None:
    """Write a fine-tuned network whose header holds its shape, its classes and `facts`.

    Args:
        images: what it was trained on, as `export` has it.
    """
    info = encoder_info(model)
    # the head reads the mean, whatever its encoder's own code does
    network = {field: value for field, value in info.architecture.items() if field != "pool"}
    header = {
        "network": network,
        "image_size": info.preparation.image_size,
        "preparation": info.preparation._asdict(),
        "form": info.format,
        "saw": info.trained_on,
        "classes": list(classes),
        **facts,
    }
    patch_size = info.architecture.get("patch_size", 0)
    for name, size in SIZES.items():  # what a plain one is called, for readers that know our sizes
        if network == plain_architecture(size.width, size.depth, size.heads, patch_size):
            header |= {"size": name, "patch_size": patch_size}
    save_sealed(model.state_dict(), path, header, images)


def read_classifier(path: Path, *, image_size: int = 0) -> tuple[Network, dict[str, Any]]:
    """Return what `write_classifier` wrote, and its header.

    image_size 0 is its own; positions are resampled to another.
    """
    tensors, header = read_weights(path)
    info = recognise(read_checkpoint(path)).info
    model = untrained_network(info, image_size=image_size, num_classes=len(header["classes"]))
    if image_size and info.architecture["family"] == "vit":
        prefix = prefix_positions(info.architecture)
        tensors = resampled_positions(tensors, model.state_dict(), prefix)
    load_all(model, tensors, path)
    return model, header

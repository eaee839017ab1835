"""Gradient accumulation: the gradients of the whole batch, a micro-batch at a time.

The contrast of eqs. 2-4 compares all pairs at once. A first pass without gradients gives their
features, the loss is taken on these, and a second pass brings its gradient to the weights
micro-batch by micro-batch (GradCache; Gao et al., 2021).
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from maskedclip.data.stream import Batch
from maskedclip.losses import label_guided_clip_loss, sigmoid_clip_loss
from maskedclip.models.maskedclip import MaskedCLIP, Outputs

Contrast = Callable[[Outputs, Tensor], Tensor]


def contrast_of_all(out: Outputs, label_A: Tensor) -> Tensor:
    """Return eqs. 2-4 of a batch that is whole on each rank; of a model with a bias, SigLIP's."""
    return _contrast(_contrasted(out), label_A)


def _contrasted(out: Outputs) -> list[Tensor]:
    """Return what the contrast takes: image_AD, text_AD, logit_scale, and a bias if any."""
    tensors = (out.image_AD, out.text_AD, out.logit_scale, out.logit_bias)
    return [tensor for tensor in tensors if tensor is not None]


def _contrast(contrasted: list[Tensor], label_A: Tensor) -> Tensor:
    image_AD, text_AD, logit_scale, *bias = contrasted
    if bias:
        return sigmoid_clip_loss(image_AD, text_AD, label_A, logit_scale, bias[0])
    return label_guided_clip_loss(image_AD, text_AD, label_A, logit_scale)


def micro_batches(image_BCHW: Tensor, batch: Batch, count: int) -> Iterator[tuple[Tensor, Batch]]:
    """Yield `count` equal shares of a rank's batch, each with its share of the pairs first."""
    pairs, images = len(batch.label_A), len(image_BCHW)
    assert pairs % count == 0 == (images - pairs) % count, "micro-batches must be equal"
    rows = torch.arange(images, device=image_BCHW.device)
    for number in range(count):
        paired = slice(number * pairs // count, (number + 1) * pairs // count)
        unpaired = slice(*(pairs + n * (images - pairs) // count for n in (number, number + 1)))
        row_B = torch.cat([rows[paired], rows[unpaired]])
        yield (
            image_BCHW[row_B],
            batch._replace(
                hidden_BN=batch.hidden_BN[row_B],
                token_AL=batch.token_AL[paired],
                token_mask_AL=batch.token_mask_AL[paired],
                label_A=batch.label_A[paired],
            ),
        )


def contrasts(
    model: MaskedCLIP, image_BCHW: Tensor, batch: Batch, count: int
) -> tuple[Tensor, list[Contrast]]:
    """Return eqs. 2-4 of the whole batch, and for each micro-batch a loss of the same gradient.

    The mean of these surrogate losses has the gradient of the whole; their values mean nothing.
    """
    with torch.no_grad():
        features = [
            _contrasted(
                model.features(
                    micro_BCHW[: len(micro.label_A)], micro.token_AL, micro.token_mask_AL
                )
            )
            for micro_BCHW, micro in micro_batches(image_BCHW, batch, count)
        ]
    rows = [torch.cat([micro[i] for micro in features]) for i in range(2)]
    leaves = [leaf.requires_grad_() for leaf in (*rows, *(x.clone() for x in features[0][2:]))]
    loss = _contrast(leaves, batch.label_A)
    slopes = torch.autograd.grad(loss, leaves)
    row_slopes = [slope.chunk(count) for slope in slopes[:2]]

    def surrogate_of(number: int) -> Contrast:
        own_slopes = (*(slope[number] for slope in row_slopes), *slopes[2:])

        def surrogate(out: Outputs, _: Tensor) -> Tensor:
            image, text, *scalars = (
                (x * slope).sum() for x, slope in zip(_contrasted(out), own_slopes, strict=True)
            )
            return count * (image + text) + torch.stack(scalars).sum()

        return surrogate

    return loss.detach(), [surrogate_of(number) for number in range(count)]

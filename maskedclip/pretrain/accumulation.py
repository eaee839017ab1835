"""A step in several parts, for batches that do not fit: the same gradients in less memory.

The contrast of eqs. 2-4 looks at all pairs at once. A first pass without gradients gives their
features, the loss is taken on these, and a second pass brings its gradient to the weights part by
part (GradCache; Gao et al., 2021).
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
    return _contrast(looked_at(out), label_A)


def looked_at(out: Outputs) -> list[Tensor]:
    """Return what the contrast looks at: image_AD, text_AD, logit_scale, and a bias if any."""
    seen = (out.image_AD, out.text_AD, out.logit_scale, out.logit_bias)
    return [tensor for tensor in seen if tensor is not None]


def _contrast(seen: list[Tensor], label_A: Tensor) -> Tensor:
    image_AD, text_AD, logit_scale, *bias = seen
    if bias:
        return sigmoid_clip_loss(image_AD, text_AD, label_A, logit_scale, bias[0])
    return label_guided_clip_loss(image_AD, text_AD, label_A, logit_scale)


def parts_of(image_BCHW: Tensor, batch: Batch, parts: int) -> Iterator[tuple[Tensor, Batch]]:
    """Yield equal parts of a rank's batch, each with its share of the pairs first."""
    pairs, images = len(batch.label_A), len(image_BCHW)
    assert pairs % parts == 0 == (images - pairs) % parts, "shares of a part must be even"
    rows = torch.arange(images, device=image_BCHW.device)
    for number in range(parts):
        mine = slice(number * pairs // parts, (number + 1) * pairs // parts)
        others = slice(*(pairs + n * (images - pairs) // parts for n in (number, number + 1)))
        row_B = torch.cat([rows[mine], rows[others]])
        yield (
            image_BCHW[row_B],
            batch._replace(
                hidden_BN=batch.hidden_BN[row_B],
                token_AL=batch.token_AL[mine],
                token_mask_AL=batch.token_mask_AL[mine],
                label_A=batch.label_A[mine],
            ),
        )


def contrasts(
    model: MaskedCLIP, image_BCHW: Tensor, batch: Batch, parts: int
) -> tuple[Tensor, list[Contrast]]:
    """Return eqs. 2-4 of the whole batch, and for each part a loss of the same gradient.

    The mean of the parts' losses has the gradient of the whole; their values mean nothing.
    """
    with torch.no_grad():
        found = [
            looked_at(
                model.features(part_BCHW[: len(part.label_A)], part.token_AL, part.token_mask_AL)
            )
            for part_BCHW, part in parts_of(image_BCHW, batch, parts)
        ]
    rows = [torch.cat([features[i] for features in found]) for i in range(2)]
    leaves = [leaf.requires_grad_() for leaf in (*rows, *(x.clone() for x in found[0][2:]))]
    loss = _contrast(leaves, batch.label_A)
    slopes = torch.autograd.grad(loss, leaves)
    row_slopes = [slope.chunk(parts) for slope in slopes[:2]]

    def pull(number: int) -> Contrast:
        def surrogate(out: Outputs, _: Tensor) -> Tensor:
            seen = looked_at(out)
            mine = [slope[number] for slope in row_slopes]
            image, text, *numbers = (
                (x * slope).sum() for x, slope in zip(seen, (*mine, *slopes[2:]), strict=True)
            )
            return parts * (image + text) + torch.stack(numbers).sum()

        return surrogate

    return loss.detach(), [pull(number) for number in range(parts)]

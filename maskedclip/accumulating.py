"""A step in several parts, for batches that do not fit: the same gradients in less memory.

The contrast of eqs. 2-4 looks at all pairs at once. A first pass without gradients gives their
features, the loss is taken on these, and a second pass brings its gradient to the weights part by
part (GradCache; Gao et al., 2021).
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from maskedclip.data.stream import Batch
from maskedclip.losses import label_guided_clip_loss
from maskedclip.models.maskedclip import MaskedCLIP, Outputs

Contrast = Callable[[Outputs, Tensor], Tensor]


def contrast_of_all(out: Outputs, label_A: Tensor) -> Tensor:
    """Return eqs. 2-4 of a batch that is whole on each rank."""
    return label_guided_clip_loss(out.image_AD, out.text_AD, label_A, out.logit_scale)


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
            model.features(part_BCHW[: len(part.label_A)], part.token_AL, part.token_mask_AL)
            for part_BCHW, part in parts_of(image_BCHW, batch, parts)
        ]
    image_AD, text_AD = (
        torch.cat([features[i] for features in found]).requires_grad_() for i in range(2)
    )
    logit_scale = found[0][2].clone().requires_grad_()
    loss = label_guided_clip_loss(image_AD, text_AD, batch.label_A, logit_scale)
    slopes = torch.autograd.grad(loss, [image_AD, text_AD, logit_scale])
    image_slopes, text_slopes = (slope.chunk(parts) for slope in slopes[:2])

    def pull(number: int) -> Contrast:
        def surrogate(out: Outputs, _: Tensor) -> Tensor:
            image = (out.image_AD * image_slopes[number]).sum()
            text = (out.text_AD * text_slopes[number]).sum()
            return parts * (image + text) + (out.logit_scale * slopes[2]).sum()

        return surrogate

    return loss.detach(), [pull(number) for number in range(parts)]

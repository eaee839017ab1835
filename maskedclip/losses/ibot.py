"""iBOT: at masked patches the student predicts the prototypes that the teacher assigns there."""

from torch import Tensor
from torch.nn import functional as F


def ibot_loss(
    student_MK: Tensor, target_MK: Tensor, weight_M: Tensor, crops: int, temperature: float
) -> Tensor:
    """Return the cross-entropy at M masked patches, weighted, summed, and shared by `crops`.

    weight_M is one over the masked patches of the patch's crop; `crops` counts the global crops,
    masked or not (DINOv2). The targets, shares of prototypes, take no gradient.
    """
    log_MK = F.log_softmax(student_MK.float() / temperature, dim=-1)
    return -((target_MK.detach() * log_MK).sum(dim=-1) * weight_M).sum() / crops

"""DINO: a student crop predicts the prototypes that the teacher assigns to another crop."""

import torch
from torch import Tensor
from torch.nn import functional as F


def dino_loss(student_XBK: Tensor, target_GBK: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of all pairs of a teacher's and another student's crop, their mean.

    student_XBK holds logits of all crops, the G global ones first; target_GBK the teacher's shares
    of prototypes for these, which take no gradient. A crop is not compared with itself.
    """
    crops, globals_ = len(student_XBK), len(target_GBK)
    log_XBK = F.log_softmax(student_XBK.float() / temperature, dim=-1)
    all_BK = target_GBK.detach().sum(dim=0)
    others_GBK = all_BK - target_GBK.detach()
    # a crop's terms are one product with the sum of the targets that it is compared with
    terms_B = -(others_GBK * log_XBK[:globals_]).sum(dim=(0, 2))
    terms_B = terms_B - torch.einsum("bk,xbk->b", all_BK, log_XBK[globals_:])
    return terms_B.mean() / (globals_ * (crops - 1))

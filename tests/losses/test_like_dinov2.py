"""A step's losses, targets, centres and schedules by DINOv2's formulas, written out in numpy.

The formulas are those of facebookresearch/dinov2 at b8931f7, whose own losses gave the same numbers
on the same tensors within 1e-6, gradients within 1e-7 (docs/recipes.md).
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maskedclip.config import override
from maskedclip.losses import centred, dino_loss, ibot_loss, koleo_loss, mean_logits, sinkhorn
from maskedclip.models.dinov2 import Head
from maskedclip.pretrain.methods.dinov2 import teacher_temperature, told_apart
from maskedclip.pretrain.methods.protocol import At
from maskedclip.recipes import dinov2

IMAGES, SMALL, PROTOTYPES, WIDTH = 6, 3, 16, 8


def cosines(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(torch.randn(*shape, WIDTH, generator=generator), dim=-1)
    prototype_KD = torch.randn(PROTOTYPES, WIDTH, generator=torch.Generator().manual_seed(99))
    return unit @ F.normalize(prototype_KD, dim=-1).T


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sinkhorn_by_hand(logit_BK: np.ndarray, temperature: float) -> np.ndarray:
    q = np.exp(logit_BK / temperature).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdims=True) * q.shape[0]
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


@pytest.mark.parametrize("kind", ["centre", "sinkhorn"])
def test_three_steps_of_targets_centres_and_dino_s_loss_are_those_of_dinov2(kind):
    centre_K, by_hand = torch.zeros(PROTOTYPES), np.zeros(PROTOTYPES)
    for step, temperature in enumerate((0.04, 0.05, 0.07)):
        teacher_GBK, student_XBK = (
            cosines(10 * step + seed, crops, IMAGES) for seed, crops in ((1, 2), (2, 2 + SMALL))
        )
        logit = teacher_GBK.double().numpy()
        if kind == "centre":
            target_GBK = centred(teacher_GBK, centre_K, temperature)
            wanted = softmax((logit - by_hand) / temperature)  # with the centre of earlier steps
            centre_K = centre_K.lerp(mean_logits(teacher_GBK.flatten(0, 1)), 0.1)
            by_hand = 0.9 * by_hand + 0.1 * logit.mean((0, 1))
            np.testing.assert_allclose(centre_K, by_hand, atol=1e-6)
        else:
            target_GBK = sinkhorn(teacher_GBK.flatten(0, 1), temperature).unflatten(0, (2, -1))
            wanted = sinkhorn_by_hand(logit.reshape(-1, PROTOTYPES), temperature)
            wanted = wanted.reshape(logit.shape)
        np.testing.assert_allclose(target_GBK, wanted, atol=2e-6)
        log = np.log(softmax(student_XBK.double().numpy() / 0.1))
        terms = 2 + 2 * SMALL
        small = sum(
            -(wanted[g] * log[x]).sum(-1).mean() for x in range(2, 2 + SMALL) for g in (0, 1)
        )
        large = sum(-(wanted[1 - x] * log[x]).sum(-1).mean() for x in (0, 1))
        loss = dino_loss(student_XBK, target_GBK, 0.1)
        assert float(loss) == pytest.approx((small + large) / terms, rel=1e-5)
        found = {name: float(value) for name, value in told_apart(target_GBK, loss).items()}
        entropy = -(wanted * np.log(wanted)).sum(-1).mean()
        assert found["entropy_dino"] == pytest.approx(entropy, rel=1e-4)
        assert found["kl_dino"] == pytest.approx((small + large) / terms - entropy, rel=1e-4)
        of_all = wanted.mean(1)
        information = -(of_all * np.log(of_all)).sum(-1).mean() - entropy
        assert found["information_dino"] == pytest.approx(information, rel=1e-3)


def test_information_is_nothing_where_images_have_one_target_sharp_or_not():
    sharp_GBK = F.one_hot(torch.zeros(2, IMAGES, dtype=torch.int64), PROTOTYPES).float()
    even_GBK = torch.full((2, IMAGES, PROTOTYPES), 1 / PROTOTYPES)
    own_GBK = F.one_hot(torch.arange(IMAGES), PROTOTYPES).float().expand(2, -1, -1)
    for target_GBK, nats in ((sharp_GBK, 0.0), (even_GBK, 0.0), (own_GBK, np.log(IMAGES))):
        information = told_apart(target_GBK, torch.tensor(0.0))["information_dino"]
        assert float(information) == pytest.approx(nats, abs=1e-6)


def test_ibot_and_koleo_are_those_of_dinov2():
    hidden_BN = np.zeros((2 * IMAGES, 9), bool)
    for crop in range(0, 2 * IMAGES, 2):  # others are not masked, and are counted
        hidden_BN[crop, : 2 + crop // 2] = True
    count = int(hidden_BN.sum())
    student_MK, teacher_MK = cosines(1, count), cosines(2, count)
    target_MK = centred(teacher_MK, mean_logits(teacher_MK), 0.04)
    logit = teacher_MK.double().numpy()
    wanted = softmax((logit - logit.mean(0)) / 0.04)
    log = np.log(softmax(student_MK.double().numpy() / 0.1))
    weight_M = (1 / hidden_BN.sum(1).clip(1))[:, None].repeat(9, 1)[hidden_BN]
    loss = -((wanted * log).sum(-1) * weight_M).sum() / len(hidden_BN)
    found = ibot_loss(student_MK, target_MK, torch.tensor(weight_M), len(hidden_BN), 0.1)
    assert float(found) == pytest.approx(loss, rel=1e-5)

    row_GBD = torch.randn(2, IMAGES, WIDTH, generator=torch.Generator().manual_seed(3))
    total = 0.0
    for crop in row_GBD.double().numpy():
        unit = crop / np.linalg.norm(crop, axis=1, keepdims=True)
        apart = np.linalg.norm(unit[:, None] - unit[None], axis=-1) + 9 * np.eye(IMAGES)
        total -= np.log(apart.min(1)).mean()
    assert float(koleo_loss(row_GBD)) == pytest.approx(total, rel=1e-5)


def test_a_head_is_three_layers_to_a_unit_row_and_its_cosines_with_prototypes():
    torch.manual_seed(0)
    head = Head(width=5, hidden=7, bottleneck=4, prototypes=6)
    x = torch.randn(3, 5)
    row = x.double().numpy()
    for layer in (head.mlp[0], head.mlp[2], head.mlp[4]):
        row = row @ layer.weight.detach().double().numpy().T + layer.bias.detach().numpy()
        if layer is not head.mlp[4]:
            row = F.gelu(torch.tensor(row)).numpy()
    row /= np.linalg.norm(row, axis=1, keepdims=True)
    prototypes = head.prototypes.detach().double().numpy()
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    np.testing.assert_allclose(head(x).detach(), row @ prototypes.T, atol=1e-6)


def test_the_teacher_s_temperature_rises_over_its_epochs_and_stays():
    config = override(dinov2(), {"optim.epochs": 100.0})  # 30 of 100, as vitl16_short
    found = [teacher_temperature(At(step, 1000, 0.0), config) for step in (0, 150, 300, 999)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])

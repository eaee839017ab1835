import math

import pytest
import torch
import torch.nn.functional as F

from maskedclip.losses import centred, dino_loss, ibot_loss, koleo_loss, mean_logits, sinkhorn


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("crops", [2, 5, 10])
def test_dino_is_the_mean_cross_entropy_of_every_pair_of_different_crops(crops):
    student_VBK, target_GBK = numbers(crops, 3, 7), numbers(2, 3, 7).softmax(-1)
    terms = [
        -(target_GBK[t, b] * (student_VBK[s, b] / 0.1).log_softmax(-1)).sum()
        for t in range(2) for s in range(crops) if s != t for b in range(3)
    ]  # fmt: skip
    assert len(terms) == 3 * (2 + 2 * (crops - 2))
    found = dino_loss(student_VBK, target_GBK, 0.1)
    assert found == pytest.approx(sum(map(float, terms)) / len(terms), rel=1e-5)


def test_dino_by_hand_is_the_log_of_what_was_named():
    target_GBK = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    student_VBK = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])
    assert dino_loss(student_VBK, target_GBK, 0.1) == pytest.approx(math.log(2))
    right_VBK = torch.tensor([[[0.0, 9.0]], [[9.0, 0.0]]])  # what the other crop is
    assert dino_loss(right_VBK, target_GBK, 0.1) == pytest.approx(0.0, abs=1e-6)


def test_ibot_is_the_mean_of_each_masked_crop_shared_by_all_crops():
    student_MK, target_MK = numbers(5, 7), numbers(5, 7).softmax(-1)
    entropy = F.cross_entropy(student_MK / 0.1, target_MK, reduction="none")
    weight_M = torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])  # crops of two and of three
    expected = (entropy[:2].mean() + entropy[2:].mean()) / 4
    torch.testing.assert_close(ibot_loss(student_MK, target_MK, weight_M, 4, 0.1), expected)
    nothing = ibot_loss(student_MK[:0], target_MK[:0], weight_M[:0], 4, 0.1)
    assert nothing == 0


def test_koleo_is_minus_the_log_distance_of_the_nearest_other_image_of_a_crop():
    row_GBD = numbers(2, 5, 3)
    expected = 0.0
    for crop in F.normalize(row_GBD, dim=-1):
        for i in range(5):
            expected -= math.log(min(float((crop[i] - crop[j]).norm()) for j in range(5) if j != i))
    assert koleo_loss(row_GBD) == pytest.approx(expected / 5, rel=1e-5)


def test_koleo_pushes_equal_rows_without_a_number_that_is_none():
    row_GBD = torch.ones(1, 3, 4, requires_grad=True)
    loss = koleo_loss(row_GBD)
    loss.backward()
    assert loss.isfinite()
    assert row_GBD.grad is not None
    assert row_GBD.grad.isfinite().all()


def test_sinkhorn_names_each_prototype_equally_often_and_each_row_sums_to_one():
    share_BK = sinkhorn(F.normalize(numbers(12, 6), dim=-1), 0.1, rounds=50)
    torch.testing.assert_close(share_BK.sum(dim=1), torch.ones(12))
    torch.testing.assert_close(share_BK.sum(dim=0), torch.full((6,), 2.0))
    assert sinkhorn(numbers(0, 6), 0.1).shape == (0, 6)


def test_sinkhorn_is_that_of_dinov2_step_by_step():
    logit_BK = F.normalize(numbers(12, 6), dim=-1)
    q = (logit_BK / 0.05).exp().T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(dim=1, keepdim=True) * 6
        q /= q.sum(dim=0, keepdim=True) * 12
    torch.testing.assert_close(sinkhorn(logit_BK, 0.05), (12 * q).T)


def test_centring_takes_the_mean_of_earlier_logits_off():
    logit_BK = numbers(4, 3)
    centre_K = mean_logits(logit_BK)
    torch.testing.assert_close(centre_K, logit_BK.mean(0))
    expected = ((logit_BK - centre_K) / 0.04).exp()
    torch.testing.assert_close(
        centred(logit_BK, centre_K, 0.04), expected / expected.sum(1, keepdim=True)
    )

import math

import torch
from torch import Tensor

from maskedclip.losses import sigmoid_clip_loss
from tests.losses.test_contrastive import unit


def log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def loss(labels: list[int], scale: float = 3.0, bias: float = -2.0) -> Tensor:
    rows = len(labels)
    parts = unit(rows, 8, 0), unit(rows, 8, 1), torch.tensor(labels)
    return sigmoid_clip_loss(*parts, torch.tensor([scale]), torch.tensor([bias]))


def test_two_pairs_written_out():
    image_BD = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text_BD = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    numbers = torch.tensor([2.0]), torch.tensor([-1.0])
    found = sigmoid_clip_loss(image_BD, text_BD, torch.tensor([1, 2]), *numbers)
    # logits 2 x . t - 1: 1 and 0.2 of the first image, -1 and 0.6 of the second
    own = log_sigmoid(1.0) + log_sigmoid(0.6)
    others = log_sigmoid(-0.2) + log_sigmoid(1.0)
    torch.testing.assert_close(found, torch.tensor(-(own + others) / 2))


def test_pairs_of_one_label_are_all_positives():
    image_BD, text_BD, labels = unit(4, 8, 0), unit(4, 8, 1), [7, 1, 7, 2]
    by_hand = 0.0
    for i, image_D in enumerate(image_BD):
        for j, text_D in enumerate(text_BD):
            logit = 3.0 * (image_D @ text_D).item() - 2.0
            by_hand -= log_sigmoid(logit if labels[i] == labels[j] else -logit) / 4
    torch.testing.assert_close(loss(labels), torch.tensor(by_hand))
    assert loss(labels) != loss([7, 1, 8, 2])


def test_gradients_reach_features_scale_and_bias():
    leaves = [unit(3, 8, 0), unit(3, 8, 1), torch.tensor([4.0]), torch.tensor([-1.0])]
    image_BD, text_BD, scale, bias = (leaf.requires_grad_() for leaf in leaves)
    sigmoid_clip_loss(image_BD, text_BD, torch.tensor([0, 1, 1]), scale, bias).backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() > 0

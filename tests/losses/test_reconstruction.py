import pytest
import torch

from maskedclip.losses import masked_pixel_loss


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_equation_1_written_out_in_loops():
    prediction, target = draw(3, 5, 4, seed=0), draw(3, 5, 4, seed=1)
    hidden = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]]).bool()
    images = []
    for b in range(3):
        patches = []
        for n in range(5):
            if hidden[b, n]:
                values = [(prediction[b, n, p] - target[b, n, p]) ** 2 for p in range(4)]
                patches.append(sum(values) / 4)
        images.append(sum(patches) / len(patches))
    torch.testing.assert_close(masked_pixel_loss(prediction, target, hidden), sum(images) / 3)


@pytest.mark.parametrize("what", [1e6, float("nan"), float("inf")])
def test_visible_pixels_do_not_count_whatever_stands_there(what):
    prediction, target = draw(2, 4, 3, seed=0).requires_grad_(), draw(2, 4, 3, seed=1)
    hidden = torch.tensor([[True, False, True, False], [False, True, False, True]])
    before = masked_pixel_loss(prediction, target, hidden)
    spoilt = target.clone()
    spoilt[~hidden] = what
    after = masked_pixel_loss(prediction, spoilt, hidden)
    torch.testing.assert_close(after, before)
    after.backward()
    assert (prediction.grad[~hidden] == 0).all()
    assert (prediction.grad[hidden] != 0).all()


def test_the_hidden_patches_alone_give_the_same_as_all_with_a_mask():
    prediction, target = draw(2, 4, 3, seed=0), draw(2, 4, 3, seed=1)
    hidden = torch.tensor([[True, False, True, False], [False, True, False, True]])
    alone = masked_pixel_loss(
        prediction[hidden].view(2, 2, 3), target[hidden].view(2, 2, 3), torch.ones(2, 2).bool()
    )
    torch.testing.assert_close(masked_pixel_loss(prediction, target, hidden), alone)

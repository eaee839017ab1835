import torch

from maskedclip.losses import centred_features, masked_feature_loss


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_equation_5_written_out_in_loops():
    prediction, target = draw(2, 3, 4, seed=0), draw(2, 3, 4, seed=1)
    images = []
    for b in range(2):
        patches = []
        for n in range(3):
            length = prediction[b, n].norm() * target[b, n].norm()
            patches.append(-(prediction[b, n] @ target[b, n]) / length)
        images.append(sum(patches) / 3)
    torch.testing.assert_close(masked_feature_loss(prediction, target), sum(images) / 2)


def test_length_does_not_matter_and_equal_directions_give_minus_one():
    features = draw(2, 3, 4, seed=0)
    torch.testing.assert_close(masked_feature_loss(3 * features, features), torch.tensor(-1.0))


def test_the_target_takes_no_gradient():
    prediction, target = draw(2, 3, 4, seed=0).requires_grad_(), draw(2, 3, 4, seed=1)
    target.requires_grad_()
    masked_feature_loss(prediction, target).backward()
    assert prediction.grad is not None
    assert target.grad is None


def test_a_constant_reaches_nothing_of_centred_features_and_much_of_others():
    target = 1.0 + 0.1 * draw(4, 5, 6, seed=0)
    constant = target.mean(dim=(0, 1)).expand_as(target)
    assert masked_feature_loss(constant, target) < -0.99
    best = max(
        -masked_feature_loss(draw(6, seed=seed).expand_as(target), centred_features(target))
        for seed in range(20)
    )
    assert best < 0.1


def test_centred_features_keep_their_differences():
    target = draw(2, 3, 4, seed=0)
    centred = centred_features(target)
    torch.testing.assert_close(centred.sum(dim=(0, 1)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(centred[1, 2] - centred[0, 1], target[1, 2] - target[0, 1])

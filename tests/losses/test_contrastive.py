import torch
from torch import Tensor
from torch.nn import functional as F

from maskedclip.losses import label_guided_clip_loss


def unit(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator), dim=-1)


def by_hand(image_BD: Tensor, text_BD: Tensor, labels: list[int], tau: float) -> Tensor:
    """Eqs. 2-4 in loops, with the minus sign."""
    rows = range(len(labels))
    image_to_text = text_to_image = torch.tensor(0.0)
    for i in rows:
        positives = [j for j in rows if labels[j] == labels[i]]
        for j in positives:
            over_texts = sum(torch.exp(tau * image_BD[i] @ text_BD[k]) for k in rows)
            over_images = sum(torch.exp(tau * image_BD[k] @ text_BD[i]) for k in rows)
            forth = torch.log(torch.exp(tau * image_BD[i] @ text_BD[j]) / over_texts)
            back = torch.log(torch.exp(tau * image_BD[j] @ text_BD[i]) / over_images)
            image_to_text = image_to_text - forth / len(positives) / len(labels)
            text_to_image = text_to_image - back / len(positives) / len(labels)
    return image_to_text / 2 + text_to_image / 2


def test_the_loss_is_equations_2_to_4_written_out_in_loops():
    image_BD, text_BD = unit(6, 8, 0), unit(6, 8, 1)
    labels = [3, 5, 3, -1, 5, 3]
    ours = label_guided_clip_loss(image_BD, text_BD, torch.tensor(labels), torch.tensor([10.0]))
    torch.testing.assert_close(ours, by_hand(image_BD, text_BD, labels, 10.0))


def test_without_shared_labels_it_is_the_loss_of_clip():
    image_BD, text_BD = unit(5, 8, 0), unit(5, 8, 1)
    logits_BB = 7.0 * image_BD @ text_BD.T
    own_B = torch.arange(5)
    clip = (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2
    ours = label_guided_clip_loss(image_BD, text_BD, own_B + 100, torch.tensor([7.0]))
    torch.testing.assert_close(ours, clip)


def test_the_order_of_the_pairs_does_not_matter():
    image_BD, text_BD, labels_B = unit(6, 8, 0), unit(6, 8, 1), torch.tensor([1, 1, 2, 3, 3, 3])
    turned_B = torch.tensor([4, 2, 0, 5, 1, 3])
    scale = torch.tensor([5.0])
    torch.testing.assert_close(
        label_guided_clip_loss(image_BD[turned_B], text_BD[turned_B], labels_B[turned_B], scale),
        label_guided_clip_loss(image_BD, text_BD, labels_B, scale),
    )


def test_pairs_of_one_label_are_not_pushed_apart():
    """With equal labels everywhere the best features are all alike."""
    same_BD = unit(1, 8, 0).expand(4, -1)
    labels_B, scale = torch.zeros(4, dtype=torch.int64), torch.tensor([10.0])
    alike = label_guided_clip_loss(same_BD, same_BD, labels_B, scale)
    spread = label_guided_clip_loss(torch.eye(4, 8), torch.eye(4, 8), labels_B, scale)
    torch.testing.assert_close(alike, torch.tensor(4.0).log())
    assert spread > alike


def test_gradients_reach_features_and_scale():
    image_BD, text_BD = unit(4, 8, 0).requires_grad_(), unit(4, 8, 1).requires_grad_()
    scale = torch.tensor([4.0], requires_grad=True)
    label_guided_clip_loss(image_BD, text_BD, torch.tensor([0, 1, 1, 2]), scale).backward()
    for leaf in (image_BD, text_BD, scale):
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() > 0

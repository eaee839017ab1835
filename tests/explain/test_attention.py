"""Maps of patches against what timm computes itself, layers mixed by hand, and autograd."""

from typing import Any, Literal

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from maskedclip.explain.attention import (
    as_grid,
    cls_row,
    mean_over_patches,
    recorded,
    relevance,
    rollout,
    similarity,
)
from maskedclip.explain.pointing_game import pointing
from maskedclip.models.blocks import Attention, Group
from maskedclip.models.maskedclip import build

HEADS = 4


def small_vit(global_pool: Literal["avg", "token"] = "avg") -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=HEADS, num_classes=3,
        global_pool=global_pool,
    ).eval()  # fmt: skip


def some_images(side: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def layers_of(network: Any) -> list[nn.Module]:
    return [block.attn for block in network.blocks]


def unfused(network: VisionTransformer) -> list[torch.Tensor]:
    """Make timm compute attention openly, and return the list that a pass fills with it."""
    kept: list[torch.Tensor] = []

    def keep(_: nn.Module, given: tuple[torch.Tensor], __: torch.Tensor) -> None:
        given[0].retain_grad()
        kept.append(given[0])

    for layer in layers_of(network):
        layer.fused_attn = False
        layer.attn_drop.register_forward_hook(keep)
    return kept


def test_attention_is_that_of_timm_and_its_rows_sum_to_one() -> None:
    network = small_vit()
    with recorded(layers_of(network), images=2, heads=HEADS) as records:
        network(some_images())
    kept = unfused(network)
    network(some_images())
    for layer, by_timm_BHLL in zip(records, kept, strict=True):
        torch.testing.assert_close(layer.attention(), by_timm_BHLL.detach())
        torch.testing.assert_close(layer.attention().sum(dim=-1), torch.ones(2, HEADS, 17))


def test_the_gradient_by_attention_is_that_of_autograd() -> None:
    network = small_vit()
    with recorded(layers_of(network), images=2, heads=HEADS) as records:
        score_B = network(some_images())[:, 1]
    gradients = torch.autograd.grad(score_B.sum(), [layer.mixed_BLD for layer in records])
    kept = unfused(network)
    network(some_images())[:, 1].sum().backward()
    for layer, gradient_BLD, by_timm_BHLL in zip(records, gradients, kept, strict=True):
        torch.testing.assert_close(
            layer.attention_gradient(gradient_BLD), by_timm_BHLL.grad, atol=1e-6, rtol=1e-4
        )


def test_our_blocks_are_recorded_as_the_same_weights_in_timm_are() -> None:
    torch.manual_seed(0)
    ours, _ = build(
        size="micro", image_size=32, patch_size=8, mask_ratio=0.75, bridge_depth=1,
        feature_decoder_depth=1, projection=16, text="builtin", text_tokens=77, text_dropout=0.0,
    )  # fmt: skip
    timm = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=0
    ).eval()
    timm.load_state_dict(ours.encoder.state_dict() | {"pos_embed": ours.encoder.pos_embed})
    with recorded(layers_of(ours.encoder), images=2, heads=4) as records:
        ours.encoder(some_images(), None, 2)
    with recorded(layers_of(timm), images=2, heads=4) as by_timm:
        timm.forward_features(some_images())
    for layer, other in zip(records, by_timm, strict=True):
        torch.testing.assert_close(layer.attention(), other.attention())


def test_turned_queries_and_keys_are_recorded_of_rotary_blocks() -> None:
    torch.manual_seed(0)
    layer, groups = Attention(width=32, heads=HEADS, rotary=True), (Group(2, 5),)
    angle_TC = torch.randn(10, 4)
    x_TD, turn_2TC = torch.randn(10, 32), torch.stack([angle_TC.cos(), angle_TC.sin()])
    with recorded([layer], images=2, heads=HEADS) as records:
        layer(x_TD, groups, None, turn_2TC)
    mixed_BHLD = records[0].attention() @ records[0].value_BHLD
    torch.testing.assert_close(
        mixed_BHLD.transpose(1, 2).reshape(10, -1), records[0].mixed_BLD.detach()
    )


def test_a_network_is_as_before_once_it_was_recorded() -> None:
    network = small_vit()
    before = network(some_images())
    with recorded(layers_of(network), images=2, heads=HEADS) as records:
        torch.testing.assert_close(network(some_images()), before)
    network(some_images())
    assert len(records) == 2
    assert not any(module._forward_hooks for module in network.modules())


def test_rollout_of_one_layer_is_half_its_attention_and_half_the_residual() -> None:
    attention_BHLL = torch.rand(1, 2, 3, 3).softmax(dim=-1)
    mixing_BLL = rollout([attention_BHLL])
    for row in range(3):
        for column in range(3):
            mean = (attention_BHLL[0, 0, row, column] + attention_BHLL[0, 1, row, column]) / 2
            by_hand = 0.5 * mean + (0.5 if row == column else 0.0)
            assert mixing_BLL[0, row, column].item() == pytest.approx(by_hand.item(), abs=1e-7)


def test_rollout_applies_the_last_layer_last_and_its_rows_sum_to_one() -> None:
    first, second = torch.rand(2, 1, 2, 5, 5).softmax(dim=-1).unbind()
    steps = [(layer.double().mean(dim=1)[0] + torch.eye(5)) / 2 for layer in (first, second)]
    mixing_BLL = rollout([first, second])
    token_L = torch.rand(5, dtype=torch.float64)
    torch.testing.assert_close(mixing_BLL[0] @ token_L, steps[1] @ (steps[0] @ token_L))
    torch.testing.assert_close(mixing_BLL.sum(dim=-1), torch.ones(1, 5, dtype=torch.float64))


class OneHead(nn.Module):
    """One layer of attention whose queries are zero: each token takes the mean of all values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(1, 3, bias=False), nn.Identity()
        self.qkv.weight = nn.Parameter(torch.tensor([[0.0], [0.0], [1.0]]))

    def forward(self, x_BL1: torch.Tensor) -> torch.Tensor:
        value_BL1 = self.qkv(x_BL1)[..., 2:]
        return self.proj(value_BL1.mean(dim=1, keepdim=True).expand_as(value_BL1))


def test_registers_end_with_the_encoder_and_what_they_took_is_still_counted() -> None:
    first = torch.rand(1, 2, 6, 6).softmax(dim=-1)  # [CLS], two registers, three patches
    second = torch.rand(1, 2, 4, 4).softmax(dim=-1)
    mixing_BLL, kept = rollout([first, second]), [0, 3, 4, 5]
    by_hand = (second.double().mean(dim=1)[0] + torch.eye(4)) / 2
    by_hand = by_hand @ ((first.double().mean(dim=1)[0] + torch.eye(6)) / 2)[kept]
    torch.testing.assert_close(mixing_BLL[0], by_hand)
    torch.testing.assert_close(mean_over_patches(mixing_BLL, 3)[0], by_hand[1:, 3:].mean(dim=0))


def test_relevance_of_a_linear_score_is_weight_times_attention_times_value_where_positive() -> None:
    layer, x_BL1 = OneHead(), torch.tensor([[[4.0], [1.0], [-2.0], [6.0]]])
    weight_L = torch.tensor([0.0, 1.0, 2.0, 3.0])
    with recorded([layer], images=1, heads=1) as records:
        score_B = layer(x_BL1)[..., 0] @ weight_L
    relevance_BLL = relevance(score_B, records)
    for row in range(4):
        for column in range(4):
            by_hand = max(0.0, weight_L[row].item() * 0.25 * x_BL1[0, column, 0].item())
            assert relevance_BLL[0, row, column].item() == pytest.approx(by_hand)
    # patches are tokens 1 to 3, and token 2 (value -2) speaks against the score
    torch.testing.assert_close(
        mean_over_patches(relevance_BLL, 3)[0], torch.tensor([0.5, 0.0, 3.0], dtype=torch.float64)
    )


def test_relevance_of_two_layers_is_what_both_add_and_what_passes_through_both() -> None:
    network = small_vit()
    with recorded(layers_of(network), images=2, heads=HEADS) as records:
        score_B = network(some_images())[:, 0]
    kept = unfused(network)
    network(some_images())[:, 0].sum().backward()
    first, second = (
        (attention.grad * attention).detach().clamp(min=0).double().mean(dim=1)
        for attention in kept
    )
    torch.testing.assert_close(
        relevance(score_B, records), first + second + second @ first, atol=1e-9, rtol=1e-4
    )


def test_the_class_token_is_read_a_head_and_without_itself() -> None:
    attention_BHLL = torch.rand(2, HEADS, 5, 5)
    torch.testing.assert_close(cls_row(attention_BHLL, 4)[1, 2], attention_BHLL[1, 2, 0, 1:])


def test_similarity_is_the_cosine_of_each_patch_with_each_text() -> None:
    patch_BND, class_YD = torch.randn(1, 4, 8), torch.randn(2, 8)
    cosine_BYN = similarity(patch_BND, class_YD)
    by_hand = nn.functional.cosine_similarity(patch_BND[0, 3], class_YD[1], dim=0)
    torch.testing.assert_close(cosine_BYN[0, 1, 3].float(), by_hand)


def test_patches_lie_row_by_row() -> None:
    assert as_grid(torch.arange(9)).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def spots(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return noise, a dark spot in half of the images and a bright one in the others, and where."""
    generator = torch.Generator().manual_seed(seed)
    image_BCHW = 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
    label_B = torch.arange(count) % 2
    place_B = torch.randint(16, (count,), generator=generator)
    for image_CHW, label, place in zip(image_BCHW, label_B, place_B, strict=True):
        top, left = 8 * (place // 4) + 2, 8 * (place % 4) + 2
        image_CHW[:, top : top + 4, left : left + 4] += 2.0 * label - 1.0
    return image_BCHW, label_B, place_B


def test_relevance_of_a_network_that_has_learnt_points_at_what_it_was_taught() -> None:
    # read from [CLS], all that the head learns of a patch has come through attention
    network = small_vit("token").train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(120):
        image_BCHW, label_B, _ = spots(32, step)
        loss = nn.functional.cross_entropy(network(image_BCHW), label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    image_BCHW, label_B, place_B = spots(60, 1000)
    with recorded(layers_of(network), images=60, heads=HEADS) as records:
        score_BY = network(image_BCHW)
    assert (score_BY.argmax(dim=1) == label_B).double().mean() > 0.95
    score_B = score_BY.gather(1, label_B[:, None])[:, 0]
    map_BRC = as_grid(relevance(score_B, records)[:, 0, 1:]).numpy()
    near_BRC = as_grid(torch.arange(16) == place_B[:, None]).numpy()
    found = pointing(list(map_BRC), list(near_BRC))
    assert found.chance == 1 / 16
    assert found.low > 4 * found.chance
    assert found.gain_low > 0.2

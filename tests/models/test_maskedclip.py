from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from maskedclip.losses import masked_feature_loss
from maskedclip.models.blocks import Group, attend
from maskedclip.models.decoders import Decoder
from maskedclip.models.maskedclip import MaskedCLIP, build
from maskedclip.models.patches import patchify, unpatchify
from maskedclip.models.teacher import Teacher
from maskedclip.models.text import Tokenizer


def networks(**changes: Any) -> tuple[MaskedCLIP, Tokenizer]:
    torch.manual_seed(0)
    shape = {
        "size": "micro",
        "image_size": 64,
        "patch_size": 16,
        "mask_ratio": 0.75,
        "bridge_depth": 2,
        "feature_decoder_depth": 2,
        "projection": 32,
        "text": "builtin",
        "text_tokens": 77,
        "text_dropout": 0.0,
    }
    return build(**(shape | changes))


def batch(tokenize: Tokenizer, images: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    image_BCHW = torch.randn(images, 3, 64, 64, generator=generator)
    hidden_BN = torch.rand(images, 16, generator=generator).argsort(dim=1) < 12
    token_AL, token_mask_AL = tokenize(["a fundus photograph of glaucoma", "drusens"])
    return image_BCHW, hidden_BN, token_AL, token_mask_AL


@pytest.mark.parametrize(
    "changes",
    [{"terms": ("mim",)}, {"terms": ("clip",)}, {"terms": ("mim", "clip")}, {"bridge_depth": 0},
     {"feature_decoder_depth": 1}],
)  # fmt: skip
def test_two_networks_of_a_seed_begin_with_the_same_weights_where_both_have_them(changes):
    whole, other = (networks(**kind)[0].state_dict() for kind in ({}, changes))
    shared = [name for name in other if not name.startswith("feature_decoder.")]
    assert shared
    assert [name for name in shared if not torch.equal(whole[name], other[name])] == []


def test_every_output_has_the_shape_that_its_loss_needs():
    model, tokenize = networks()
    out = model(*batch(tokenize))
    assert out.pixel_BMP.shape == (5, 12, 768)
    assert out.feature_BND.shape == (5, 16, 128)
    assert out.image_AD.shape == out.text_AD.shape == (2, 32)
    assert out.logit_scale.shape == (1,)
    torch.testing.assert_close(out.image_AD.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(out.text_AD.norm(dim=1), torch.ones(2))
    assert out.logit_scale.item() == pytest.approx(1 / 0.07)


def test_every_weight_gets_a_gradient_from_the_three_losses():
    model, tokenize = networks()
    out = model(*batch(tokenize))
    total = out.pixel_BMP.square().mean() + out.feature_BND.square().mean()
    (total + (out.logit_scale * (out.image_AD * out.text_AD.roll(1, 0))).sum()).backward()
    # the last block's key bias cancels in the softmax, but belongs to a weight that has gradients
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["text.bert.embeddings.token_type_embeddings.weight"] or not without


def test_padding_never_counts_in_the_text():
    model, tokenize = networks()
    token_AL, mask_AL = tokenize(["glaucoma", "a retina with a handful of microaneurysms"])
    alone_AL, alone_mask_AL = tokenize(["glaucoma"])
    together = model.text(token_AL, mask_AL)[0]
    torch.testing.assert_close(together, model.text(alone_AL, alone_mask_AL)[0], rtol=0, atol=1e-5)


def test_the_image_feature_is_the_mean_of_the_patches_alone():
    model, _ = networks()
    image_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    _, whole = model.encoder(image_BCHW, None, 2)
    by_hand = F.normalize(model.image_projection(model.bridge(whole)[:, 1:].mean(1)), dim=-1)
    torch.testing.assert_close(model.encode_image(image_BCHW), by_hand)


def test_the_teacher_is_the_average_of_the_students_weights():
    model, _ = networks()
    teacher = Teacher(model.encoder, model.bridge)
    name = "blocks.0.attn.qkv.weight"
    expected = dict(model.encoder.named_parameters())[name].detach().clone()
    for step in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * (step + 1))
        teacher.follow(model, 0.9, torch.zeros(()))
        student = dict(model.encoder.named_parameters())[name].detach()
        expected = 0.9 * expected + 0.1 * student
        torch.testing.assert_close(dict(teacher.encoder.named_parameters())[name], expected)
    bridge = zip(teacher.bridge.parameters(), model.bridge.parameters(), strict=True)
    assert all(not torch.equal(ours, theirs) for ours, theirs in bridge)


def test_the_teacher_sees_the_whole_image_without_gradients():
    model, _ = networks()
    teacher = Teacher(model.encoder, model.bridge)
    image_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    target_BND = teacher(image_BCHW)
    _, whole = model.encoder(image_BCHW, None, 2)
    torch.testing.assert_close(target_BND, model.bridge(whole)[:, 1:])
    assert not target_BND.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_tau_stays_at_most_100():
    model, _ = networks()
    model.temperature.logit_scale.data.fill_(9.0)
    model.temperature.clamp()
    assert model.temperature().item() == pytest.approx(100)


def inputs_of(module: torch.nn.Module) -> list[tuple[object, ...]]:
    """Return a list that gets the inputs of each call."""
    calls: list[tuple[object, ...]] = []
    module.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    return calls


def test_the_pixel_head_runs_on_hidden_patches_alone():
    model, tokenize = networks()
    pixel, feature = inputs_of(model.pixel_decoder.head), inputs_of(model.feature_decoder.head)
    model(*batch(tokenize, images=5))
    assert [x.shape for (x,) in pixel] == [(5, 12, 96)]  # of 16 patches; eq. 1 ignores the others
    assert [x.shape for (x,) in feature] == [(5, 16, 128)]  # eq. 5 looks at all


def test_each_block_of_the_encoder_runs_once_over_visible_tokens_and_those_of_pairs():
    model, tokenize = networks()
    calls = [inputs_of(block) for block in model.encoder.blocks]
    bridge = [inputs_of(block) for block in model.bridge.blocks]
    model(*batch(tokenize, images=5))
    for found in calls:
        ((x_TD, groups, *_),) = found
        assert groups == (Group(5, 1 + 4), Group(2, 1 + 16))
        assert len(x_TD) == 5 * 5 + 2 * 17
    assert [groups for ((_, groups, *_),) in bridge] == [(Group(2, 17),)] * 2


def test_the_teacher_is_not_given_the_students_mask():
    model, tokenize = networks()
    teacher = Teacher(model.encoder, model.bridge)
    image_BCHW, hidden_BN, _, _ = batch(tokenize, images=5)
    encoder, block = inputs_of(teacher.encoder), inputs_of(teacher.encoder.blocks[0])
    target_BND = teacher(image_BCHW)
    ((seen_BCHW, visible, whole),) = encoder
    assert seen_BCHW is image_BCHW
    assert visible is None
    assert whole == 5
    assert block[0][1] == (Group(5, 17),)
    # what hides from the student does not hide from the teacher
    spoilt = unpatchify(patchify(image_BCHW, 16).masked_fill(hidden_BN[:, :, None], 9.0), 16)
    assert not torch.allclose(teacher(spoilt), target_BND, atol=1e-2)


def test_the_teacher_takes_no_gradients_and_gives_none():
    model, tokenize = networks()
    teacher = Teacher(model.encoder, model.bridge)
    image_BCHW, *others = batch(tokenize)
    out = model(image_BCHW, *others)
    masked_feature_loss(out.feature_BND, teacher(image_BCHW)).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in model.bridge.parameters())
    assert model.feature_decoder.head.weight.grad is not None


@pytest.mark.parametrize("length", [1, 5, 50])
def test_attention_is_torchs_own(length):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(3, 2, length, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    )
    ours, theirs = attend(q, k, v), F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for mine, expected in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((theirs * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected)


def test_a_decoder_puts_visible_tokens_back_in_their_places():
    """With no blocks and a head of one, what comes out is what was put at each place."""
    decoder = Decoder(width_in=8, width=8, depth=0, heads=1, width_out=8, grid=2)
    decoder.embed, decoder.norm, decoder.head = (torch.nn.Identity() for _ in range(3))
    token_BKD = torch.arange(24.0).view(1, 3, 8)  # [CLS] and two visible patches
    out_BND = decoder(token_BKD, torch.tensor([[1, 3]]), None) - decoder.position[:, 1:]
    torch.testing.assert_close(out_BND[0, [1, 3]], token_BKD[0, 1:])
    torch.testing.assert_close(out_BND[0, 0], decoder.mask_token[0, 0])
    wanted = decoder(token_BKD, torch.tensor([[1, 3]]), torch.tensor([[0, 2]]))
    torch.testing.assert_close(wanted - decoder.position[:, [1, 3]], out_BND[:, [0, 2]])


def test_the_operations_of_a_step_are_those_that_torch_counts():
    model, tokenize = networks()
    teacher = Teacher(model.encoder, model.bridge)
    image_BCHW, hidden_BN, token_AL, token_mask_AL = batch(tokenize)
    with FlopCounterMode(display=False) as counter:
        out = model(image_BCHW, hidden_BN, token_AL, token_mask_AL)
        teacher(image_BCHW)
        (
            out.pixel_BMP.sum() + out.feature_BND.sum() + (out.image_AD @ out.text_AD.T).sum()
        ).backward()
    ours = model.step_flops(5, 2, token_AL.shape[1])
    # ours counts a backward pass to the pixels, and leaves out the projections and tiny attention
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.06)

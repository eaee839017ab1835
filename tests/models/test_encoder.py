import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from maskedclip.models.blocks import Rotary, rotary_angles, sincos_positions
from maskedclip.models.checkpoints.architectures import to_eva_names, with_layer_scale
from maskedclip.models.encoder import Encoder
from maskedclip.models.patches import (
    masked_and_filled,
    normalise_patches,
    patchify,
    pixel_target,
    split_patches,
    take,
    unpatchify,
)


def encoder(**changes) -> Encoder:
    torch.manual_seed(0)
    return Encoder(image_size=64, patch_size=16, width=48, depth=3, heads=3, **changes)


def of_timm(ours: Encoder) -> VisionTransformer | Eva:
    """timm's network with the same weights; of plain ViTs under the same names."""
    if ours.rotary:
        theirs = timm.create_model(
            "vit_small_patch16_dinov3_qkvb", img_size=64, embed_dim=48, depth=3, num_heads=3,
            num_reg_tokens=ours.registers, num_classes=0, global_pool="token",
        ).eval()  # fmt: skip
        theirs.load_state_dict(with_layer_scale(to_eva_names(ours.state_dict())), strict=True)
        return theirs
    theirs = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=48, depth=3, num_heads=3, num_classes=0,
        reg_tokens=ours.registers, no_embed_class=bool(ours.registers),
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs


def without_registers(token_BLD: torch.Tensor, registers: int) -> torch.Tensor:
    return torch.cat([token_BLD[:, :1], token_BLD[:, 1 + registers :]], dim=1)


def timms_blocks(theirs, token_BLD: torch.Tensor, rope) -> torch.Tensor:
    """Return the last tokens of timm's network, given the first ones."""
    for block in theirs.blocks:
        token_BLD = block(token_BLD) if rope is None else block(token_BLD, rope=rope)
    return theirs.norm(token_BLD)


KINDS = pytest.mark.parametrize(
    "kind",
    [{}, {"registers": 3}, {"positions": "rotary"}, {"positions": "rotary", "registers": 3}],
    ids=["plain", "registers", "rotary", "rotary and registers"],
)


def images(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def some_hidden(batch: int = 4, patches: int = 16, hidden: int = 12) -> torch.Tensor:
    order = torch.rand(batch, patches, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    return order < hidden


@KINDS
def test_the_packed_pass_equals_two_separate_passes(kind):
    model, image_BCHW = encoder(**kind), images()
    visible_BK, _ = split_patches(some_hidden(), 4)
    masked, whole = model(image_BCHW, visible_BK, 2)
    alone, _ = model(image_BCHW, visible_BK, 0)
    _, unmasked = model(image_BCHW[:2], None, 2)
    torch.testing.assert_close(masked, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole, unmasked, rtol=0, atol=1e-5)


@KINDS
def test_the_packed_pass_has_the_gradients_of_two_separate_passes(kind):
    together, apart = encoder(**kind), encoder(**kind)
    image_BCHW = images()
    visible_BK, _ = split_patches(some_hidden(), 4)
    masked, whole = together(image_BCHW, visible_BK, 2)
    (masked.square().mean() + whole.square().mean()).backward()
    apart(image_BCHW, visible_BK, 0)[0].square().mean().backward()
    apart(image_BCHW[:2], None, 2)[1].square().mean().backward()
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@KINDS
def test_the_whole_pass_is_timms_vision_transformer(kind):
    ours = encoder(**kind).eval()
    _, whole = ours(images(), None, 4)
    theirs = without_registers(of_timm(ours).forward_features(images()), ours.registers)
    torch.testing.assert_close(whole, theirs, rtol=0, atol=1e-5)


@KINDS
def test_the_masked_pass_is_timms_on_the_visible_patches_and_all_registers(kind):
    ours = encoder(**kind).eval()
    theirs, first = of_timm(ours), 1 + ours.registers
    visible_BV, _ = split_patches(some_hidden(), 4)
    masked, _ = ours(images(), visible_BV, 0)
    token_BLD, rope = theirs._pos_embed(theirs.patch_embed(images())), None
    if ours.rotary:
        token_BLD, rope_NC = token_BLD
        rope = rope_NC[visible_BV][:, None]  # an axis of heads
    token_BLD = torch.cat([token_BLD[:, :first], take(token_BLD[:, first:], visible_BV)], dim=1)
    token_BLD = without_registers(timms_blocks(theirs, token_BLD, rope), ours.registers)
    torch.testing.assert_close(masked, token_BLD, rtol=0, atol=1e-5)


def test_registers_change_what_patches_see_and_are_not_handed_on():
    model, visible_BV = encoder(registers=3), split_patches(some_hidden(), 4)[0]
    masked, whole = model(images(), visible_BV, 2)
    assert (masked.shape, whole.shape) == ((4, 5, 48), (2, 17, 48))
    masked.square().mean().backward()
    assert model.reg_token.grad.abs().min() > 0
    assert model.pos_embed.shape == (1, 16, 48)


def test_rotary_attention_knows_the_places_of_patches():
    model, image_BCHW = encoder(positions="rotary").eval(), images()
    flipped_BCHW = unpatchify(patchify(image_BCHW, 16).flip(1), 16)
    whole, other = (model(x, None, 4)[1] for x in (image_BCHW, flipped_BCHW))
    assert (whole[:, 1:] - other[:, 1:].flip(1)).abs().max() > 0.01
    model.angle_1NC.zero_()
    whole, other = (model(x, None, 4)[1] for x in (image_BCHW, flipped_BCHW))
    torch.testing.assert_close(whole[:, 1:], other[:, 1:].flip(1), rtol=0, atol=1e-5)


def test_a_turn_keeps_lengths_and_its_gradient_turns_back():
    qkv_TE = torch.randn(5, 3 * 2 * 8, dtype=torch.float64, requires_grad=True)
    angle_TC = torch.randn(5, 4, dtype=torch.float64)
    turn_2TC = torch.stack([angle_TC.cos(), angle_TC.sin()])
    rotary = Rotary(heads=2)
    turned_TE = rotary(qkv_TE, turn_2TC)
    query, key, value = turned_TE.view(5, 3, 2, 8).unbind(1)
    was = qkv_TE.view(5, 3, 2, 8).unbind(1)
    assert value.equal(was[2])
    torch.testing.assert_close(query.norm(dim=-1), was[0].norm(dim=-1))
    torch.testing.assert_close(key.norm(dim=-1), was[1].norm(dim=-1))
    assert torch.autograd.gradcheck(lambda x: rotary(x, turn_2TC), qkv_TE)


def test_angles_are_of_the_row_then_of_the_column_over_periods_up_to_100():
    angle_NC = rotary_angles(4, 8)[0]
    row, column = 2, 1
    by_hand = [
        2 * torch.pi * ((place + 0.5) / 4 * 2 - 1) / period
        for place in (row, column)
        for period in (1.0, 10.0)
    ]
    torch.testing.assert_close(angle_NC[row * 4 + column], torch.tensor(by_hand))


def test_the_bias_of_rotary_keys_is_nothing_and_stays_so():
    model = encoder(positions="rotary")
    model(images(), None, 4)[1].square().mean().backward()
    bias = model.blocks[0].attn.qkv.bias.grad.view(3, 48)
    assert bias[1].abs().max() == 0
    assert bias[0].abs().max() > 0


def test_without_registers_names_and_first_weights_are_as_they_were():
    plain, others = encoder().state_dict(), encoder(registers=3).state_dict()
    assert others.keys() - plain.keys() == {"reg_token"}
    assert plain["pos_embed"].shape == (1, 17, 48)
    assert all(plain[name].equal(others[name]) for name in plain if name != "pos_embed")


def test_parameter_names_and_shapes_are_those_of_timms_large():
    with torch.device("meta"):
        ours = Encoder(image_size=224, patch_size=16, width=1024, depth=24, heads=16)
        theirs = timm.create_model("vit_large_patch16_224", num_classes=0)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


def test_hidden_patches_never_reach_the_masked_pass():
    model, image_BCHW, hidden_BN = encoder(), images(), some_hidden()
    visible_BK, _ = split_patches(hidden_BN, 4)
    patch_BNP = patchify(image_BCHW, 16)
    spoilt = unpatchify(patch_BNP.masked_fill(hidden_BN[:, :, None], 1e3), 16)
    torch.testing.assert_close(
        model(spoilt, visible_BK, 0)[0], model(image_BCHW, visible_BK, 0)[0], rtol=0, atol=0
    )


def test_patches_of_a_split_are_each_named_once():
    hidden_BN = some_hidden()
    visible_BK, hidden_BM = split_patches(hidden_BN, 4)
    assert (
        torch.cat([visible_BK, hidden_BM], 1)
        .sort(dim=1)
        .values.equal(torch.arange(16).expand(4, -1))
    )
    assert hidden_BN.gather(1, hidden_BM).all()
    assert not hidden_BN.gather(1, visible_BK).any()


def test_patchify_reads_rows_columns_then_colours():
    image_BCHW = images(2)
    patch_BNP = patchify(image_BCHW, 16)
    by_hand = image_BCHW[1, :, 16:32, 48:64].permute(1, 2, 0).reshape(-1)
    assert patch_BNP[1, 7].equal(by_hand)
    assert unpatchify(patch_BNP, 16).equal(image_BCHW)


def test_normalised_patches_have_mean_0_and_variance_1():
    patch_BNP = normalise_patches(patchify(images(), 16) * 7 + 3)
    torch.testing.assert_close(patch_BNP.mean(-1), torch.zeros(4, 16), rtol=0, atol=1e-5)
    torch.testing.assert_close(patch_BNP.var(-1), torch.ones(4, 16), rtol=0, atol=1e-4)


def test_a_perfect_prediction_draws_the_original():
    image_BCHW = images()
    _, hidden_BM = split_patches(some_hidden(), 4)
    for normalised in (True, False):
        perfect = pixel_target(image_BCHW, hidden_BM, 16, normalised)
        masked, filled = masked_and_filled(image_BCHW, perfect, hidden_BM, 16, normalised)
        torch.testing.assert_close(filled, image_BCHW, rtol=0, atol=1e-4)
        assert (patchify(masked, 16) == 0).all(dim=-1).sum(dim=1).tolist() == [12] * 4


def test_positions_are_sines_of_the_column_then_of_the_row():
    position = sincos_positions(8, 3)[0]
    assert (position[0] == 0).all()
    row, column = 2, 1
    omega = torch.tensor([1.0, 10000 ** (-1 / 2)])
    by_hand = torch.cat(
        [f(place * omega) for place in (column, row) for f in (torch.sin, torch.cos)]
    )
    torch.testing.assert_close(position[1 + row * 3 + column], by_hand)

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from maskedclip.models.blocks import sincos_positions
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


def of_timm(ours: Encoder) -> VisionTransformer:
    """timm's network with the same weights, under the same names."""
    theirs = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=48, depth=3, num_heads=3, num_classes=0,
        reg_tokens=ours.registers, no_embed_class=bool(ours.registers),
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs


def without_registers(token_BLD: torch.Tensor, registers: int) -> torch.Tensor:
    return torch.cat([token_BLD[:, :1], token_BLD[:, 1 + registers :]], dim=1)


REGISTERS = pytest.mark.parametrize("registers", [0, 3])


def images(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def some_hidden(batch: int = 4, patches: int = 16, hidden: int = 12) -> torch.Tensor:
    order = torch.rand(batch, patches, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    return order < hidden


@REGISTERS
def test_the_packed_pass_equals_two_separate_passes(registers):
    model, image_BCHW = encoder(registers=registers), images()
    visible_BK, _ = split_patches(some_hidden(), 4)
    masked, whole = model(image_BCHW, visible_BK, 2)
    alone, _ = model(image_BCHW, visible_BK, 0)
    _, unmasked = model(image_BCHW[:2], None, 2)
    torch.testing.assert_close(masked, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole, unmasked, rtol=0, atol=1e-5)


@REGISTERS
def test_the_packed_pass_has_the_gradients_of_two_separate_passes(registers):
    together, apart = encoder(registers=registers), encoder(registers=registers)
    image_BCHW = images()
    visible_BK, _ = split_patches(some_hidden(), 4)
    masked, whole = together(image_BCHW, visible_BK, 2)
    (masked.square().mean() + whole.square().mean()).backward()
    apart(image_BCHW, visible_BK, 0)[0].square().mean().backward()
    apart(image_BCHW[:2], None, 2)[1].square().mean().backward()
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@REGISTERS
def test_the_whole_pass_is_timms_vision_transformer(registers):
    ours = encoder(registers=registers).eval()
    _, whole = ours(images(), None, 4)
    theirs = without_registers(of_timm(ours).forward_features(images()), registers)
    torch.testing.assert_close(whole, theirs, rtol=0, atol=1e-5)


@REGISTERS
def test_the_masked_pass_is_timms_on_the_visible_patches_and_all_registers(registers):
    ours = encoder(registers=registers).eval()
    theirs, first = of_timm(ours), 1 + registers
    visible_BV, _ = split_patches(some_hidden(), 4)
    masked, _ = ours(images(), visible_BV, 0)
    token_BLD = theirs._pos_embed(theirs.patch_embed(images()))
    token_BLD = torch.cat([token_BLD[:, :first], take(token_BLD[:, first:], visible_BV)], dim=1)
    token_BLD = theirs.norm(theirs.blocks(token_BLD))
    torch.testing.assert_close(masked, without_registers(token_BLD, registers), rtol=0, atol=1e-5)


def test_registers_change_what_patches_see_and_are_not_handed_on():
    model, visible_BV = encoder(registers=3), split_patches(some_hidden(), 4)[0]
    masked, whole = model(images(), visible_BV, 2)
    assert (masked.shape, whole.shape) == ((4, 5, 48), (2, 17, 48))
    masked.square().mean().backward()
    assert model.reg_token.grad.abs().min() > 0
    assert model.pos_embed.shape == (1, 16, 48)


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

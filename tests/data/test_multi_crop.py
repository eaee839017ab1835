import io
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from maskedclip.data.multi_crop import (
    COLOUR_DRAWS,
    MultiCrop,
    _blurred,
    _grey,
    _hue_shifted,
    augment_colours,
    crop_draws,
    hidden_blocks,
)
from maskedclip.data.transforms import TRIES, crop_of, write_crops
from maskedclip.shards.phantoms.phantom import draw
from tests.streams import VIEW

SEVERAL = MultiCrop(
    local_crops=3, local_size=16, local_area=(0.05, 0.32), mask_ratio=(0.1, 0.5), drops=6
)


def jpeg(side: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(draw(3, side).image_HWC).save(content, "JPEG", quality=90)
    return content.getvalue()


@pytest.mark.parametrize("fidelity", ["exact", "fine"])
def test_crops_of_one_decoding_are_those_of_a_decoding_each(fidelity):
    draw_XEF = np.random.default_rng(0).random((5, TRIES, 4))
    slots = SEVERAL.slots(np.empty(SEVERAL.bytes(32), np.uint8), 32)
    areas = SEVERAL.areas((0.32, 1.0))
    write_crops(slots, jpeg(96), areas, draw_XEF, fidelity)
    for slot, area, draw_EF in zip(slots, areas, draw_XEF, strict=True):
        alone = crop_of(jpeg(96), len(slot), area, draw_EF, fidelity)
        if fidelity == "exact":
            assert (slot == alone).all()
        else:  # at another scale of decoding, perhaps
            assert np.abs(slot.astype(float) - alone).mean() < 4


def test_draws_are_of_seed_epoch_sample_and_crop_number_alone():
    names = ["a/1", "a/2"]
    both = crop_draws(7, [0, 0], names, SEVERAL, 16)
    (alone,) = crop_draws(7, [0], ["a/2"], SEVERAL, 16)
    for ours, theirs in zip(both[1], alone, strict=True):
        assert (ours == theirs).all()
    assert both[0].colour_XF.shape == (5, COLOUR_DRAWS)
    assert both[0].drop_XF.shape == (5, 6)
    values = {
        float(one.crop_XEF[v, 0, 0])
        for seed, epoch in ((7, 0), (7, 1), (8, 0))
        for one in crop_draws(seed, [epoch] * 2, names, SEVERAL, 16)
        for v in range(5)
    }
    assert len(values) == 30  # none is another's


def test_one_large_crop_of_an_image_is_masked_in_the_share_that_was_drawn():
    draws = crop_draws(0, [0] * 300, [f"a/{i}" for i in range(300)], SEVERAL, 196)
    masks_BGN = np.stack([hidden_blocks(one.mask_F, (0.1, 0.5), 196) for one in draws])
    count_BG = masks_BGN.sum(axis=2)
    assert ((count_BG > 0).sum(axis=1) == 1).all()
    expected = [round(196 * (0.1 + 0.4 * one.mask_F[1])) for one in draws]
    assert count_BG.sum(axis=1).tolist() == expected
    assert 0.35 < (count_BG[:, 0] > 0).mean() < 0.65
    # blocks: a masked patch's right neighbour is masked far more often than by chance
    grid_BNN = masks_BGN.reshape(-1, 14, 14)
    pairs = (grid_BNN[:, :, 1:] & grid_BNN[:, :, :-1]).sum() / grid_BNN[:, :, :-1].sum()
    assert pairs > 0.55
    nothing = hidden_blocks(draws[0].mask_F, (0.0, 0.0), 196)
    assert not nothing.any()


def image() -> torch.Tensor:
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def test_hue_grey_and_blur_are_torchvision_s():
    x_BCHW, turn_B = image(), torch.tensor([-0.1, 0.0, 0.05, 0.1])
    sigma_B = torch.tensor([0.1, 0.5, 1.0, 2.0])
    turned, blurred = _hue_shifted(x_BCHW, turn_B.view(-1, 1, 1, 1)), _blurred(x_BCHW, sigma_B)
    for i in range(4):
        hue = TF.adjust_hue(x_BCHW[i], float(turn_B[i]))
        torch.testing.assert_close(turned[i], hue, rtol=0, atol=1e-5)
        blur = TF.gaussian_blur(x_BCHW[i], [9, 9], [float(sigma_B[i])] * 2)
        torch.testing.assert_close(blurred[i], blur, rtol=0, atol=1e-5)
    torch.testing.assert_close(_grey(x_BCHW), TF.rgb_to_grayscale(x_BCHW), rtol=0, atol=1e-3)


def test_colour_augmentation_applies_its_operations_in_order_where_their_draws_say_so():
    x_BCHW, draw_BF = image(), torch.full((4, COLOUR_DRAWS), 0.99)
    never, always = torch.zeros(4), torch.ones(4)
    torch.testing.assert_close(
        augment_colours(x_BCHW, draw_BF, blur_B=never, solarise_B=never), x_BCHW
    )
    draw_BF[:, :5] = torch.tensor([0.0, 0.9, 0.2, 0.7, 0.6])
    found = augment_colours(x_BCHW, draw_BF, blur_B=never, solarise_B=always)
    for i in range(4):
        one = TF.adjust_brightness(x_BCHW[i], 1 + 0.4 * 0.8)
        one = TF.adjust_contrast(one, 1 - 0.4 * 0.6)
        one = TF.adjust_saturation(one, 1 + 0.2 * 0.4)
        one = TF.solarize(TF.adjust_hue(one, 0.1 * 0.2), 0.5)
        torch.testing.assert_close(found[i], one, rtol=0, atol=1e-2)


def test_a_stream_of_crops_is_the_same_for_all_ranks_and_starts(phantoms):
    from dataclasses import replace
    from pathlib import Path

    from maskedclip.data.source import Source
    from maskedclip.data.storage.shards import Shards
    from maskedclip.data.stream import stream

    source = Source("unpaired", [Shards(Path(phantoms["unpaired"]))], 0, captioned=False)
    several = replace(VIEW, crops=SEVERAL)
    nothing = torch.zeros(0, 1, dtype=torch.int64)

    def steps(first, rank, world, threads=0):
        batches = stream(
            None, source, (0, 4), several, lambda _: (nothing, nothing),
            first_step=first, rank=rank, world=world, threads=threads, prefetch=1,
        )  # fmt: skip
        return [batch.crops for batch in islice(batches, 3 - first)]

    whole, later = steps(0, 0, 1), steps(1, 0, 1, threads=2)
    for ours, theirs in zip(whole[1:], later, strict=True):
        assert ours.sizes == theirs.sizes
        assert all(a.equal(b) for a, b in zip(ours[:-1], theirs[:-1], strict=True))
    shares = [steps(0, rank, 2) for rank in range(2)]
    for number, crops in enumerate(whole):
        for name in [n for n in crops._fields if n not in ("masked_M", "sizes")]:
            both = torch.cat([getattr(share[number], name) for share in shares])
            assert both.equal(getattr(crops, name)), name
        large_BGHWC = crops.large_crops()
        assert not large_BGHWC[:, 0].equal(large_BGHWC[:, 1])
        flat_RN = crops.hidden_BGN.transpose(0, 1).flatten(0, 1)
        assert flat_RN.flatten()[crops.masked_M].all()
        assert len(crops.masked_M) == flat_RN.sum()

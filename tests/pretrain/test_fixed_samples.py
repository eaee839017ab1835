"""Pictures are of the same images through a whole run, and of those alone that may be shown."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskedclip.config import Config, override
from maskedclip.data.source import Source
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.engine.distributed import process_group
from maskedclip.models.text import Tokenizer
from maskedclip.pretrain.fixed_samples import FixedSamples, fixed_samples
from maskedclip.pretrain.methods.protocol import Shown
from maskedclip.pretrain.sample_sheet import _HIGH, _LOW, sheet

WORDLESS = Tokenizer(None, 0)


def fixed_of(config: Config, *directories: Path, **facts: Any) -> FixedSamples | None:
    """Return the samples of a paired source of these directories, and of the unpaired one."""
    datasets = [Shards(directory) for directory in directories]
    datasets[0].manifest.update(facts)
    paired = Source("paired", datasets, config.seed, captioned=True)
    unpaired = Source("unpaired", [Shards(Path(config.data.unpaired[0]))], config.seed, False)
    with process_group():
        return fixed_samples(config, (paired, unpaired), WORDLESS)


def test_they_are_a_function_of_the_seed(small: Config, phantoms: dict[str, Path]) -> None:
    config = override(small, {"log.images": True})
    one, same = (fixed_of(config, phantoms["paired"]) for _ in range(2))
    other = fixed_of(override(config, {"seed": 1}), phantoms["paired"])
    assert one is not None
    assert same is not None
    assert other is not None
    assert len(set(one.batch.keys)) == 6
    assert one.datasets == ["paired"] * 3 + ["unpaired"] * 3
    assert one.batch.keys == same.batch.keys != other.batch.keys
    assert one.batch.image_BCHW.equal(same.batch.image_BCHW)
    assert one.batch.hidden_BN.equal(same.batch.hidden_BN)
    assert one.captions == same.captions


def test_only_what_a_licence_lets_anyone_show_is_drawn_or_what_the_user_asks_for(
    small: Config, phantoms: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert fixed_of(small, phantoms["paired"]) is None
    assert "--log.images" in caplog.text
    found = fixed_of(small, phantoms["paired"], phantoms["heldout"], licence="CC0 1.0")
    assert found is not None
    assert found.datasets == ["paired"] * 3  # of three datasets one is open


def test_a_report_that_may_not_be_shown_is_among_no_captions(small: Config, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "reports", "reports") as writer:
        facts = {"categories": ["glaucoma"], "report": "Mrs X has glaucoma", "split": "train"}
        writer.add("a", b"no picture", facts | {"width": 8, "height": 8})
    own = Path(small.data.paired[0])
    kept = fixed_of(small, own, tmp_path / "reports", licence="CC BY 4.0")
    assert kept is not None
    assert "Mrs X" not in str(kept)
    assert "A fundus photograph of glaucoma" in kept.captions


def a_sheet(fixed: FixedSamples, **parts: Tensor) -> np.ndarray:
    images = len(fixed.datasets)
    shown = Shown(torch.zeros(images, 3, 32, 32), torch.randn(images, 4, 8))._replace(**parts)
    return sheet(fixed, shown, 16, normalised=False).permute(1, 2, 0).numpy()


def test_of_a_map_the_lowest_cosine_is_dark_and_the_highest_bright(small: Config) -> None:
    fixed = fixed_of(override(small, {"log.images": True}), Path(small.data.paired[0]))
    assert fixed is not None
    cosine_BN = torch.tensor([[0.1, 0.5, 0.9, 0.5]]).repeat(6, 1)
    picture_HWC = a_sheet(fixed, teacher_cosine_BN=cosine_BN)
    assert picture_HWC.dtype == np.uint8
    left, top = 8 + 144 + 8, 17 + 8  # of the second column
    quarters = [picture_HWC[top + y, left + x] for y in (36, 108) for x in (36, 108)]
    assert [tuple(quarters[i]) for i in (0, 2)] == [_LOW, _HIGH]
    middle = (np.array(_LOW) + np.array(_HIGH)) / 2
    assert np.abs(quarters[1] - middle).max() <= 1
    cosine_BN[:, 3] = torch.nan  # a patch for which nothing is predicted
    grey = a_sheet(fixed, teacher_cosine_BN=cosine_BN)[top + 108, left + 108]
    assert tuple(grey) == (204, 204, 204)


def test_the_nearest_caption_is_green_where_it_is_the_image_s_own(small: Config) -> None:
    fixed = fixed_of(override(small, {"log.images": True}), Path(small.data.paired[0]))
    assert fixed is not None
    count = len(fixed.captions)
    assert count >= len(fixed.datasets)
    text_CD = torch.eye(count)
    own = torch.stack([text_CD[fixed.captions.index(words[0])] for words in fixed.own[:3]])
    right = a_sheet(fixed, image_BD=torch.cat([own, own]), text_CD=text_CD)
    none = replace_own(fixed)
    wrong = a_sheet(none, image_BD=torch.cat([own, own]), text_CD=text_CD)
    assert [greens(picture) for picture in (right, wrong)] == [True, False]


def replace_own(fixed: FixedSamples) -> FixedSamples:
    return fixed._replace(own=[["something else"] for _ in fixed.own])


def greens(picture_HWC: np.ndarray) -> bool:
    """Return whether a pixel of the captions' column is of the colour of what is right."""
    words = picture_HWC[:, 8 + 2 * 152 :].astype(int)
    return bool(((words[..., 1] - words[..., 0] > 60) & (words[..., 1] - words[..., 2] > 40)).any())


def test_fewer_captions_than_images_are_repeated_for_the_pass_of_whole_images(
    small: Config, tmp_path: Path, phantoms: dict[str, Path]
) -> None:
    config = override(small, {"log.images": True, "data.caption_template": "An eye [CLS]"})
    shards = Shards(phantoms["paired"])
    with ShardWriter(tmp_path / "one", "one") as writer:
        for index in range(4):
            jpeg, facts = shards.read(index)
            writer.add(f"{index}", jpeg, facts | {"categories": ["glaucoma"], "labels": {}})
    found = fixed_of(config, tmp_path / "one")
    assert found is not None
    assert found.captions == ["An eye glaucoma"]
    assert len(found.batch.token_AL) == len(found.datasets) == 6
    assert found.prefix == "An eye "

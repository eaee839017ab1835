import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from maskedclip.data.rows import View, label_of
from maskedclip.data.source import Source
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.data.stream import Batch, stream

VIEW = View(
    image_size=32,
    num_patches=4,
    mask_ratio=0.75,
    crop_area=(0.2, 1.0),
    caption_template="A fundus photograph of [CLS]",
    caption_from="report",
    fidelity="fine",
)


def dataset(folder: Path, name: str, samples: int, categories=("glaucoma",), report=None) -> Shards:
    generator = np.random.default_rng(len(name))
    with ShardWriter(folder / name, name, samples_per_shard=7) as writer:
        for i in range(samples):
            image_HWC = generator.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            metadata = {"dataset": name, "categories": list(categories), "width": 48}
            metadata |= {"report": report} if report else {}
            writer.add(f"{i:04d}", simplejpeg.encode_jpeg(image_HWC), metadata)
    return Shards(folder / name)


def tokenize(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    token_AL = torch.tensor([[sum(caption.encode())] for caption in captions])
    return token_AL, torch.ones_like(token_AL)


def batches(
    paired: Source, unpaired: Source, steps: int, *, first=0, rank=0, world=1, threads=0
) -> list[Batch]:
    endless = stream(
        paired, unpaired, (4, 6), VIEW, tokenize,
        first_step=first, rank=rank, world=world, threads=threads, prefetch=2,
    )  # fmt: skip
    found = list(itertools.islice(endless, steps))
    endless.close()
    return found


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Source, Source]:
    paired = [dataset(tmp_path, "p", 9), dataset(tmp_path, "pp", 4, ("cataract", "drusens"))]
    unpaired = [dataset(tmp_path, "unpaired", 20)]
    return Source("paired", paired, 5, True), Source("unpaired", unpaired, 5, False)


def assert_same(ours: Batch, theirs: Batch) -> None:
    for name, value in ours._asdict().items():
        other = getattr(theirs, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_batch_is_the_same_for_any_number_of_threads(sources, threads):
    for ours, alone in zip(
        batches(*sources, 6, threads=threads), batches(*sources, 6, threads=0), strict=True
    ):
        assert_same(ours, alone)


def test_resuming_at_a_step_gives_the_uninterrupted_batches(sources):
    whole = batches(*sources, 9)
    for ours, theirs in zip(batches(*sources, 4, first=5), whole[5:], strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("world", [2])
def test_ranks_share_the_batch_of_one_process_out(sources, world):
    for step, alone in enumerate(batches(*sources, 5)):
        shares = [
            batches(*sources, 1, first=step, rank=rank, world=world)[0] for rank in range(world)
        ]
        paired, unpaired = 4 // world, 6 // world
        rows = [row for share in shares for row in share.keys[:paired]]
        rows += [row for share in shares for row in share.keys[paired:]]
        assert rows == alone.keys
        image = torch.cat(
            [s.image_BCHW[:paired] for s in shares] + [s.image_BCHW[paired:] for s in shares]
        )
        assert image.equal(alone.image_BCHW)
        assert torch.cat([s.label_A for s in shares]).equal(alone.label_A)
        assert len(shares[0].keys) == paired + unpaired


def test_an_epoch_of_each_source_shows_each_sample_once(sources):
    paired, unpaired = sources
    keys = [key for batch in batches(paired, unpaired, 26) for key in batch.keys[:4]]
    for epoch in range(8):  # 13 paired samples, 104 rows
        assert len(set(keys[13 * epoch : 13 * (epoch + 1)])) == 13
    keys = [key for batch in batches(paired, unpaired, 10) for key in batch.keys[4:]]
    assert all(len(set(keys[20 * epoch : 20 * (epoch + 1)])) == 20 for epoch in range(3))


def test_a_sample_is_cut_anew_each_epoch_and_the_same_when_seen_again(sources):
    paired, _ = sources
    first, second = (batches(*sources, 20) for _ in range(2))
    seen: dict[str, list[torch.Tensor]] = {}
    for ours, theirs in zip(first, second, strict=True):
        assert_same(ours, theirs)
        for key, image_CHW in zip(ours.keys[:4], ours.image_BCHW[:4], strict=True):
            seen.setdefault(key, []).append(image_CHW)
    assert len(seen) == len(paired)
    assert all(not images[0].equal(images[1]) for images in seen.values())


def test_every_row_hides_its_share_of_patches_and_not_always_the_same(sources):
    hidden_BN = torch.cat([batch.hidden_BN for batch in batches(*sources, 10)])
    assert (hidden_BN.sum(dim=1) == 3).all()
    assert hidden_BN.float().mean(dim=0).min() > 0.5


def test_images_leave_the_stream_as_bytes_in_one_block(sources):
    (batch,) = batches(*sources, 1, threads=2)
    assert batch.image_BCHW.dtype == torch.uint8
    assert batch.image_BCHW.shape == (10, 3, 32, 32)
    assert batch.image_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert batch.image_BCHW.is_pinned() == torch.cuda.is_available()


def test_a_batch_is_not_written_to_again(sources):
    held = batches(*sources, 8, threads=2)
    assert len({batch.image_BCHW.data_ptr() for batch in held}) == 8
    for ours, alone in zip(held, batches(*sources, 8), strict=True):
        assert ours.image_BCHW.equal(alone.image_BCHW)


def test_the_memory_of_a_batch_is_used_again_once_no_part_of_it_is_held(sources):
    endless = stream(
        *sources, (4, 6), VIEW, tokenize, first_step=0, rank=0, world=1, threads=2, prefetch=1
    )
    one_HWC = next(endless).image_BCHW[3].permute(1, 2, 0).numpy()  # all that is kept of it
    before_HWC, held = one_HWC.copy(), one_HWC.ctypes.data
    places = {next(endless).image_BCHW.data_ptr() for _ in range(40)}
    endless.close()
    assert len(places) < 12  # those under way
    assert not any(place <= held < place + 10 * one_HWC.nbytes for place in places)
    assert (one_HWC == before_HWC).all()


def test_equal_sets_of_categories_are_positives_across_datasets():
    assert label_of(["drusens", "cataract"], "a/3") == label_of(["cataract", "drusens"], "b/8") > 0
    assert label_of(["cataract"], "a/3") != label_of(["cataract", "drusens"], "a/3")


def test_a_pair_without_categories_is_a_positive_of_its_own_sample_alone():
    labels = [label_of([], f"{dataset}/{row}") for dataset in "ab" for row in range(720)]
    assert len(set(labels)) == 1440
    assert -(2**63) <= min(labels) <= max(labels) < 0
    assert label_of([], "a/3") == label_of([], "a/3")


@pytest.mark.parametrize("label_guided", [True, False])
def test_a_sample_that_comes_twice_in_a_batch_is_no_negative_of_itself(tmp_path, label_guided):
    told = [dataset(tmp_path, "told", 5, (), "a cup"), dataset(tmp_path, "found", 3)]
    paired = Source("paired", told, 5, True)
    steps = stream(  # two epochs in a step
        paired, None, (16, 0), replace(VIEW, label_guided=label_guided), tokenize,
        first_step=0, rank=0, world=1, threads=0, prefetch=0,
    )  # fmt: skip
    batch = next(steps)
    steps.close()
    labels_of: dict[str, set[int]] = {}
    for key, label in zip(batch.keys, batch.label_A.tolist(), strict=True):
        labels_of.setdefault(key, set()).add(label)
    assert len(labels_of) == 8
    assert all(len(labels) == 1 for labels in labels_of.values())
    others = {label for labels in labels_of.values() for label in labels}
    assert len(others) == (6 if label_guided else 8)  # the three of one finding share theirs


def damage(dataset: Shards, index: int) -> None:
    path = dataset.directory / dataset.shard(index)
    jpeg, _ = dataset.read(index)
    content = bytearray(path.read_bytes())
    content[content.index(jpeg) + len(jpeg) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_sample_costs_that_sample_and_is_named(sources, tmp_path):
    before = batches(*sources, 5)
    victim = Shards(tmp_path / "unpaired")
    damage(victim, 11)
    after = batches(*sources, 5)
    lost = [entry for batch in after for entry in batch.lost]
    assert {(entry.dataset, entry.key) for entry in lost} == {("unpaired", "0011")}
    assert all("checksum" in entry.reason and entry.shard for entry in lost)
    rows = [
        (ours, theirs, mine.equal(other))
        for a, b in zip(before, after, strict=True)
        for ours, theirs, mine, other in zip(
            a.keys, b.keys, a.image_BCHW, b.image_BCHW, strict=True
        )
    ]
    changed = [(ours, same) for ours, theirs, same in rows if ours != theirs]
    assert {ours for ours, _ in changed} == {"unpaired/0011"}
    assert len(changed) == len(lost) > 0
    assert all(same for ours, theirs, same in rows if ours == theirs)


def test_a_truncated_shard_costs_the_samples_behind_the_cut(sources, tmp_path):
    path = tmp_path / "unpaired" / Shards(tmp_path / "unpaired").shard(0)
    path.write_bytes(path.read_bytes()[:4000])
    lost = {entry.key for batch in batches(*sources, 4) for entry in batch.lost}
    assert lost
    assert lost <= {f"{i:04d}" for i in range(7)}


def test_a_source_of_damaged_samples_alone_stops_the_run(tmp_path):
    good, bad = dataset(tmp_path, "good", 5), dataset(tmp_path, "bad", 5)
    for index in range(5):
        damage(bad, index)
    with pytest.raises(RuntimeError, match="in a row are damaged"):
        batches(Source("paired", [good], 0, True), Source("unpaired", [bad], 0, False), 1)


def test_samples_without_a_caption_stay_out_of_the_pairs(tmp_path):
    uncaptioned, captioned = (
        dataset(tmp_path, "uncaptioned", 5, ()),
        dataset(tmp_path, "captioned", 5),
    )
    source = Source("paired", [uncaptioned, captioned], 0, True)
    assert (len(source), source.left_out) == (5, 5)
    with pytest.raises(ValueError, match="no sample"):
        Source("paired", [uncaptioned], 0, True)

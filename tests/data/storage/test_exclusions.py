"""The list of samples that are left out: it is a file that anyone can read, and nothing forgets."""

from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from maskedclip.data.labelled import labelled
from maskedclip.data.source import Source
from maskedclip.data.storage.exclusions import (
    EXCLUSIONS,
    Exclusion,
    read_exclusions,
    write_exclusions,
)
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.data.stream import Batch, stream
from tests.streams import VIEW, tokenize


def dataset(directory: Path, samples: int) -> Path:
    generator = np.random.default_rng(samples)
    with ShardWriter(directory, directory.name, samples_per_shard=5) as writer:
        for i in range(samples):
            image_HWC = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            facts = {"categories": ["glaucoma"], "labels": {"grade": str(i % 2)}}
            writer.add(f"k{i:02d}", simplejpeg.encode_jpeg(image_HWC), facts)
    return directory


def exclude(directory: Path, *numbers: int) -> None:
    write_exclusions(directory, [Exclusion(f"k{i:02d}", "near copy", "test/x") for i in numbers])


def batches(directory: Path, steps: int, *, first: int = 0, rank: int = 0, world: int = 1):
    paired = Source("paired", [Shards(directory)], 5, True)
    unpaired = Source("unpaired", [Shards(directory)], 5, False)
    with closing(
        stream(
            paired, unpaired, (4, 6), VIEW, tokenize,
            first_step=first, rank=rank, world=world, threads=0, prefetch=2,
        )
    ) as endless:  # fmt: skip
        return list(islice(endless, steps))


def keys(found: list[Batch]) -> set[str]:
    return {key for batch in found for key in batch.keys}


def test_what_is_written_is_read_again_in_the_order_of_keys(tmp_path: Path) -> None:
    entries = [Exclusion("b", 'a "near" copy, of 0.9', "test/x"), Exclusion("a", "exact", "t/y")]
    write_exclusions(tmp_path, [*entries, Exclusion("b", "another reason", "t/z")])
    assert read_exclusions(tmp_path, ["a", "b", "c"]) == entries[::-1]
    assert (tmp_path / EXCLUSIONS).read_text().splitlines()[0] == "key,reason,copy_of"


def test_without_a_list_nothing_is_left_out(tmp_path: Path) -> None:
    shards = Shards(dataset(tmp_path / "d", 6))
    assert shards.excluded == frozenset()
    assert Source("paired", [shards], 0, True).excluded == 0


def test_the_stream_never_delivers_an_excluded_sample_and_all_the_others(tmp_path: Path) -> None:
    directory = dataset(tmp_path / "d", 12)
    exclude(directory, 0, 3, 11)
    source = Source("paired", [Shards(directory)], 5, True)
    assert (len(source), source.excluded, source.left_out) == (9, 3, 0)
    kept = {f"d/k{i:02d}" for i in range(12) if i not in (0, 3, 11)}
    assert keys(batches(directory, 9)) == kept


def test_the_order_is_the_same_again_from_any_step(tmp_path: Path) -> None:
    directory = dataset(tmp_path / "d", 12)
    exclude(directory, 4)
    whole, end = batches(directory, 7), batches(directory, 3, first=4)
    assert [batch.keys for batch in whole[4:]] == [batch.keys for batch in end]
    for ours, theirs in zip(whole[4:], end, strict=True):
        assert torch.equal(ours.image_BCHW, theirs.image_BCHW)


def test_two_ranks_share_the_batch_of_one_out(tmp_path: Path) -> None:
    directory = dataset(tmp_path / "d", 12)
    exclude(directory, 1, 2)
    for step, alone in enumerate(batches(directory, 4)):
        shares = [batches(directory, 1, first=step, rank=rank, world=2)[0] for rank in range(2)]
        rows = [key for share in shares for key in share.keys[:2]]
        rows += [key for share in shares for key in share.keys[2:]]
        assert rows == alone.keys


def test_labels_of_excluded_samples_take_no_part(tmp_path: Path) -> None:
    directory = dataset(tmp_path / "d", 8)
    exclude(directory, 2, 5)
    found = {sample.key for sample in labelled(Shards(directory), "grade").samples}
    assert found == {f"k{i:02d}" for i in (0, 1, 3, 4, 6, 7)}


def test_a_dataset_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    directory = dataset(tmp_path / "d", 3)
    exclude(directory, 0, 1, 2)
    with pytest.raises(ValueError, match=r"no sample in .* is left: 3 stand in exclude\.csv"):
        Source("unpaired", [Shards(directory)], 0, False)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"key,reason,copy_of\nnowhere,x,y\n", "no sample 'nowhere'"),
        (b"key,reason\nk00,x\n", "begins with"),
        (b"key,reason,copy_of\nk00,x\n", "row 2 has 2 of 3 fields"),
        (b'key,reason,copy_of\n"k00,x,y\n', "is not a CSV"),
        (b"\xff\xfe", "is not a CSV"),
        (b"", "is not a CSV"),
    ],
)
def test_a_damaged_or_foreign_list_is_refused_in_one_line(
    tmp_path: Path, content: bytes, found: str
) -> None:
    directory = dataset(tmp_path / "d", 3)
    (directory / EXCLUSIONS).write_bytes(content)
    with pytest.raises(ValueError, match=found) as error:
        Shards(directory)
    assert "\n" not in str(error.value)

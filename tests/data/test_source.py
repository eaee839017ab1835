import itertools
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from maskedclip.data.source import Source, without_caption
from maskedclip.data.storage.shards import Shards
from maskedclip.data.stream import stream
from tests.streams import VIEW, Computed, Plan, share, stored, tokenize


def test_a_far_step_of_a_virtual_source_of_100_million_samples_is_there_at_once():
    """Step 10^7 in 50 MB, opening the sources included; windowed, weighted, plain."""
    share(plan_of_100_million(0, ()), 0, 1, 0, 1)  # imports and first calls
    for window, weights in [(0, ()), (10_000, ()), (10_000, (3, 1))]:
        tracemalloc.start()
        (batch,) = share(plan_of_100_million(window, weights), 10**7, 1, 0, 1, threads=2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(batch.keys) == 24
        assert peak < 50e6


def plan_of_100_million(window: int, weights: tuple[float, ...]) -> Plan:
    half = [Computed("a", 5 * 10**7), Computed("b", 5 * 10**7)]
    return Plan(
        Source("paired", half, 1, True, window=window, weights=weights),
        Source("unpaired", [Computed("c", 10**8)], 1, False, window=window),
        (8, 16),
    )


def test_with_weights_each_dataset_has_its_share_and_epochs_of_its_own():
    datasets = [Computed("a", 10), Computed("b", 90)]
    source = Source("unpaired", datasets, 3, False, weights=(3, 1))
    shown = source.samples_at(0, 5000)
    assert Counter(place.dataset for place in shown) == {0: 3750, 1: 1250}
    for which, size in enumerate((10, 90)):
        ours = [place for place in shown if place.dataset == which]
        for epoch in range(len(ours) // size):
            of_it = ours[epoch * size : (epoch + 1) * size]
            assert {place.epoch for place in of_it} == {epoch}
            assert sorted(place.sample for place in of_it) == list(range(size))


def test_an_epoch_may_begin_within_a_batch_many_times():
    source = Source("unpaired", [Computed("a", 1)], 3, False)
    assert [tuple(place) for place in source.samples_at(5, 3)] == [(5, 0, 0), (6, 0, 0), (7, 0, 0)]


def test_datasets_without_samples_take_no_part():
    source = Source("unpaired", [Computed("a", 0), Computed("b", 3), Computed("c", 0)], 3, False)
    assert {place.dataset for place in source.samples_at(0, 12)} == {1}
    with pytest.raises(ValueError, match=r"data\.unpaired_weights: b has the weight 1 and no"):
        Source("unpaired", [Computed("a", 2), Computed("b", 0)], 3, False, weights=(1, 1))
    with pytest.raises(ValueError, match=r"data\.unpaired: no sample in a"):
        Source("unpaired", [Computed("a", 0)], 3, False)


def test_an_empty_source_says_which_flag_emptied_it():
    everything = [np.arange(3)]
    with pytest.raises(ValueError, match=r"3 are test images; --data\.leave_out_tests=false"):
        Source("unpaired", [Computed("a", 3)], 3, False, tested=everything)
    with pytest.raises(ValueError, match="has a caption; name shards with reports"):
        Source("paired", [Computed("a", 3)], 3, True, uncaptioned=everything)
    # of those with a caption the last are test images
    with pytest.raises(ValueError, match=r"1 are test images; --data\.leave_out_tests=false"):
        Source("paired", [Computed("a", 3)], 3, True, uncaptioned=[np.arange(2)], tested=everything)


@pytest.mark.parametrize("weights", [(), (2, 1)])
def test_what_an_unfinished_epoch_did_not_show_is_known(weights):
    source = Source("unpaired", [Computed("a", 7), Computed("b", 4)], 3, False, weights=weights)
    for rows in range(40):
        unseen = list(source.unseen(rows))
        shown = source.samples_at(0, rows)
        for members in [{0, 1}] if not weights else [{0}, {1}]:
            size = sum((7, 4)[i] for i in members)
            ours, rest = (
                [place for place in some if place.dataset in members] for some in (shown, unseen)
            )
            last = ours[len(ours) // size * size :]
            whole = {(d, i) for d in members for i in range((7, 4)[d])} if last else set()
            assert {place[1:] for place in last} | {place[1:] for place in rest} == whole
            assert len(last) + len(rest) == len(whole)
            assert len({place.epoch for place in last + rest}) <= 1


def test_what_lies_ahead_is_read_a_window_early_and_once():
    """8 samples a step in windows of 50 (the last of an epoch has 30), of 3 neighbours each."""
    source = Source("unpaired", [Computed("a", 230)], 3, False, window=50)
    windows = source.ahead(0, 8, fresh=True)
    assert len(windows) == 2  # the first and the one behind it
    for step in range(1, 60):
        needed = {place.sample for place in source.samples_at(step * 8, 8)}
        have = {i for window in windows for span in window for i in range(span.start, span.stop)}
        assert needed <= have
        windows += source.ahead(step * 8, 8, fresh=False)
    sizes = [sum(span.stop - span.start for span in window) for window in windows]
    assert sizes == ([50] * 4 + [30]) * 2 + [50] * 2  # 480 samples, and two windows ahead
    assert max(len(window) for window in windows) <= 19


def test_a_window_over_two_datasets_is_read_from_both():
    source = Source("unpaired", [Computed("a", 30), Computed("b", 70)], 3, False, window=100)
    here, _ = source.ahead(0, 8, fresh=True)
    assert [tuple(span) for span in here] == [(0, 0, 30), (1, 0, 70)]


def test_the_stream_warms_each_window_of_the_shards():
    dataset = Computed("a", 230)
    source = Source("paired", [dataset], 3, True, window=50)
    steps = stream(
        source, None, (8, 0), VIEW, tokenize,
        first_step=0, rank=0, world=1, threads=0, prefetch=0,
    )  # fmt: skip
    end = time.monotonic() + 30
    for batch in itertools.islice(steps, 29):
        while not {int(key[2:]) for key in batch.keys} <= warmed(dataset):
            assert time.monotonic() < end
            time.sleep(0.001)
    steps.close()
    assert warmed(dataset) == set(range(230))


def warmed(dataset: Computed) -> set[int]:
    return {i for start, stop in list(dataset.warmed) for i in range(start, stop)}


def test_samples_that_are_left_out_shift_the_others_together(tmp_path):
    """Every fourth sample has no caption; exclude.csv names two more."""
    stored(tmp_path, "a", 23, captioned=False)
    listed = "key,reason,copy_of\n0000,copy,x/1\n0022,copy,x/2\n"
    (tmp_path / "a" / "exclude.csv").write_text(listed)
    shards = Shards(tmp_path / "a")
    source = Source("paired", [shards], 3, True)
    uncaptioned = without_caption(shards).tolist()
    assert uncaptioned == [3, 7, 11, 15, 19]
    taking_part = sorted(set(range(23)) - set(uncaptioned) - {0, 22})
    assert sorted(place.sample for place in source.samples_at(0, len(source))) == taking_part
    assert (len(source), source.excluded, source.left_out) == (16, 2, 5)


def test_who_takes_part_can_be_told_by_what_was_found_before(tmp_path):
    shards = stored(tmp_path, "a", 8)
    source = Source("paired", [shards], 3, True, uncaptioned=[np.array([1, 2])])
    assert sorted(place.sample for place in source.samples_at(0, 6)) == [0, 3, 4, 5, 6, 7]

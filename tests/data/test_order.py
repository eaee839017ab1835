import numpy as np
import pytest

from maskedclip.data.order import (
    BLOCK,
    number,
    ordered,
    permuted,
    pieces,
    shares_of,
    turns_at,
    uniform,
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 17, 1000, 4097])
def test_every_place_goes_to_a_place_of_its_own(size):
    for key in (0, 1, 2**63 + 5):
        assert sorted(permuted(np.arange(size), size, key)) == list(range(size))


def test_a_place_does_not_depend_on_which_others_are_asked_for():
    whole = permuted(np.arange(1000), 1000, 7)
    assert permuted(np.array([3, 500, 999]), 1000, 7).tolist() == whole[[3, 500, 999]].tolist()


def test_another_key_gives_another_order():
    first, second = (permuted(np.arange(1000), 1000, key) for key in (1, 2))
    assert (first == second).sum() < 10  # one in expectation


def test_neighbours_are_spread_like_in_a_uniform_permutation():
    """Mean distance of neighbours is a third of the size; 3 deviations of that mean are allowed."""
    order = permuted(np.arange(20_000), 20_000, 11)
    distance = np.abs(np.diff(order)).mean() / 20_000
    assert abs(distance - 1 / 3) < 3 * 0.2357 / np.sqrt(20_000)


def test_a_far_place_of_a_huge_source_is_found_at_once():
    index = permuted(np.array([10**7, 10**8 - 1]), 10**8, 3)
    assert ((index >= 0) & (index < 10**8)).all()


def test_numbers_and_generators_depend_on_their_parts_alone():
    assert number("a", 1) == number("a", 1) != number("a", 2)
    assert number("a", "b") != number("ab")


def test_uniform_numbers_depend_on_their_key_alone_and_are_uniform():
    key_B = np.array([number("a", i) for i in range(500)], np.uint64)
    value_BK = uniform(key_B, 200)
    assert (uniform(key_B[7:8], 200)[0] == value_BK[7]).all()
    assert (uniform(key_B, 20) == value_BK[:, :20]).all()
    assert ((value_BK >= 0) & (value_BK < 1)).all()
    counts, _ = np.histogram(value_BK, 100, (0, 1))
    assert abs(((counts - 1000) ** 2 / 1000).sum() - 99) < 5 * (2 * 99) ** 0.5
    assert abs(np.corrcoef(value_BK)[~np.eye(500, dtype=bool)]).max() < 0.4
    assert abs(np.corrcoef(value_BK.T)[~np.eye(200, dtype=bool)]).max() < 0.25


@pytest.mark.parametrize("size", [5, 6, 9, 12])
def test_each_pair_of_places_holds_each_pair_of_a_small_source_equally_often(size):
    """Of 4,000 orders; chi-squared within 5 deviations of what uniform orders give."""
    ends = np.zeros((size, size))
    for key in range(4000):
        order = permuted(np.arange(size), size, number(key))
        ends[order[0], order[-1]] += 1
    expected, freedom = 4000 / (size * (size - 1)), size * (size - 1) - 1
    chi = ((ends[~np.eye(size, dtype=bool)] - expected) ** 2 / expected).sum()
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("window", [1, 2, 40, 64, 99, 130, 1000])
@pytest.mark.parametrize("size", [1, 10, 63, 200])
def test_an_order_in_windows_holds_each_place_once_and_each_window_is_a_few_runs(size, window):
    for key in range(3):
        order = ordered(0, size, size, window, key)
        assert sorted(order) == list(range(size))
        for place in range(size):
            runs, start = pieces(place, size, window, key), place // window * window
            inside = [index for first, stop in runs for index in range(first, stop)]
            assert sorted(order[start : start + window]) == inside
            block = min(window, BLOCK)
            assert len(runs) <= len(inside) // block + 3  # cut at its ends, and the shorter block


def test_the_shorter_block_comes_at_any_turn():
    places = {ordered(0, 100, 100, 32, key).tolist().index(99) // 32 for key in range(40)}
    assert places == {0, 1, 2, 3}


def test_a_part_of_an_order_in_windows_is_that_part_of_the_whole():
    whole = ordered(0, 1000, 1000, 64, 7)
    for first, rows in [(0, 1), (63, 2), (500, 300), (999, 1), (1000, 0)]:
        assert ordered(first, rows, 1000, 64, 7).tolist() == whole[first : first + rows].tolist()


def test_the_order_of_windows_is_another_each_epoch():
    first, second = (ordered(0, 640, 640, 64, key) for key in (1, 2))
    assert (first != second).sum() > 600
    assert {*first[:64]} != {*second[:64]}


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ((1,), (1000,)),
        ((2, 1), (666, 333)),
        ((1, 1, 1), (333, 333, 333)),
        ((0.5, 0.25, 0.25), (500, 250, 250)),
        ((0.7, 0.2, 0.1), (700, 200, 100)),
        ((1.5, 1.5, 1.5), (334, 333, 333)),
        ((0, 1), (0, 1000)),
        ((1, 999), (1, 999)),
    ],
)
def test_shares_of_a_cycle_are_the_weights_and_the_largest_remainders_are_rounded_up(
    weights, shares
):
    assert shares_of(weights) == shares


def test_each_cycle_of_a_mixture_has_exactly_its_shares_in_an_order_of_its_own():
    shares = (700, 200, 0, 100)
    cycles = [turns_at(cycle * 1000, 1000, shares, 5).which_B for cycle in range(5)]
    assert all(np.bincount(cycle).tolist() == list(shares) for cycle in cycles)
    assert (cycles[0] != cycles[1]).sum() > 300


def test_a_part_of_a_mixture_knows_how_much_each_dataset_has_given_before():
    shares = (666, 333)
    which_B, before = turns_at(0, 4000, shares, 5)
    assert before == [0, 0]
    for first, rows in [(1, 1), (998, 3), (999, 5), (1500, 2000), (0, 0)]:
        found = turns_at(first, rows, shares, 5)
        assert found.which_B.tolist() == which_B[first : first + rows].tolist()
        assert found.before == np.bincount(which_B[:first], minlength=2).tolist()


def test_places_beyond_64_bits_do_not_overflow():
    far = 10**30
    which_B, before = turns_at(far, 10, (666, 333), 5)
    assert len(which_B) == 10
    assert far - 999 <= sum(before) <= far
    assert ordered(2**62, 3, 2**62 + 3, 1000, 1).max() < 2**62 + 3

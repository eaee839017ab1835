import numpy as np
import pytest

from maskedclip.data.order import generator, number, permuted


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
    assert generator(1, "x").random() == generator(1, "x").random() != generator(2, "x").random()

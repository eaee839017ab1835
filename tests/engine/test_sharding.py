"""Which sharding is chosen when."""

import pytest

from maskedclip.engine.sharding import chosen

GB = 1e9
CARD = 85 * GB


def of(asked="auto", *, world, nodes=1, state=20 * GB, card=CARD) -> str:
    return chosen(asked, world=world, nodes=nodes, state_bytes=state, card_bytes=card)


def test_one_rank_has_plain_modules():
    assert of(world=1) == of(world=1, card=0) == of("none", world=1) == "none"


def test_a_model_that_fits_eight_times_over_is_replicated_and_a_larger_one_sharded():
    assert of(world=4, state=CARD / 8) == "replicate"
    assert of(world=4, state=CARD / 8 + 1) == "shard"


def test_the_large_model_is_sharded_on_80_gb_and_the_base_one_replicated():
    large, base = (
        18 * trained + 4 * teacher for trained, teacher in ((537e6, 353e6), (274e6, 114e6))
    )
    assert of(world=4, state=large) == "shard"
    assert of(world=4, state=base) == "replicate"


def test_several_nodes_shard_within_a_node():
    assert of(world=16, nodes=4) == "hybrid"
    assert of(world=4, nodes=4) == "shard"  # one GPU a node: nothing to shard within
    assert of(world=5, nodes=2) == "shard"  # nodes of unlike size


def test_processors_shard_as_they_always_have():
    assert of(world=4, nodes=2, card=0) == "shard"


def test_what_is_asked_for_is_taken():
    assert [of(kind, world=4, nodes=2) for kind in ("shard", "replicate", "hybrid")] == [
        "shard", "replicate", "hybrid",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "world", "nodes"),
    [("none", 2, 1), ("hybrid", 4, 1), ("hybrid", 1, 1), ("hybrid", 2, 2)],
)
def test_what_the_ranks_do_not_allow_is_refused_in_one_line(asked, world, nodes):
    with pytest.raises(
        ValueError, match=f"engine.sharding {asked} on {world} ranks.*; use"
    ) as error:
        of(asked, world=world, nodes=nodes)
    assert len(str(error.value).splitlines()) == 1

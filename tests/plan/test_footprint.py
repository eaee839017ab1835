"""Counting a step from shapes."""

import pytest

from maskedclip.models.shapes import BatchShape, NetworkShape, StackShape
from maskedclip.plan import footprint
from maskedclip.plan.footprint import Ways

NETWORK = NetworkShape(
    encoder=StackShape("E_I", 2, 8, 32, 2, unit=900, rest=100),
    pixel_decoder=StackShape("D_I", 1, 4, 16, 2, unit=250, rest=50, width_in=8, width_out=12),
    feature_decoder=StackShape("D_F", 1, 8, 32, 2, unit=900, rest=60, width_in=8, width_out=8),
    bridge=StackShape("B", 1, 8, 32, 2, unit=900, rest=16),
    text=StackShape("E_T", 1, 8, 32, 2, unit=900, rest=500),
    projections=40,
    projection=4,
    patches=16,
    visible=4,
    patch_values=12,
    image_values=192,
)
LOAD = BatchShape(images=6, paired=2, text_tokens=5)


def test_one_rank_exchanges_nothing():
    assert set(footprint.traffic(NETWORK, Ways(1)).values()) == {0.0}


def test_each_student_block_is_gathered_twice_and_all_else_once():
    blocks, rest = 2 * 900 + 250 + 3 * 900, 100 + 50 + 60 + 16 + 500 + 40
    traffic = footprint.traffic(NETWORK, Ways(4))
    assert traffic["gathered for the student"] == 0.75 * 2 * (2 * blocks + rest)
    assert traffic["gathered for the teacher"] == 0.75 * 2 * (3 * 900 + 116)
    assert traffic["reduced"] == 0.75 * 4 * (blocks + rest)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_sharded_shrinks_with_the_ranks_and_activations_stay(parts, recompute):
    alone = footprint.memory(NETWORK, LOAD, Ways(1, 2, parts, recompute))
    among = footprint.memory(NETWORK, LOAD, Ways(8, 2, parts, recompute))
    assert among.by_part["moments"] == alone.by_part["moments"] / 8
    assert among.total < alone.total
    for part in NETWORK.students:
        kept = footprint.kept_bytes(part, NETWORK, LOAD, Ways(1, 2, parts, recompute))
        assert kept == footprint.kept_bytes(part, NETWORK, LOAD, Ways(8, 2, parts, recompute))


def test_memory_grows_with_the_images_and_with_the_bytes_of_a_value():
    sizes = [
        footprint.memory(NETWORK, BatchShape(3 * n, n, 5), Ways(2)).total for n in range(1, 20)
    ]
    assert sizes == sorted(sizes)
    assert footprint.memory(NETWORK, LOAD, Ways(2, 4)).total > sizes[1]


def test_only_what_saves_memory_is_done_again():
    assert footprint.again(NETWORK, LOAD, Ways(2)) == 0
    assert footprint.again(NETWORK, LOAD, Ways(2, recompute=True)) > 0
    assert footprint.again(NETWORK, LOAD, Ways(2, parts=2)) > 0


def test_replicas_exchange_nothing_but_gradients_there_and_back():
    traffic = footprint.traffic(NETWORK, Ways(4, sharding="replicate"))
    assert traffic["gathered for the student"] == traffic["gathered for the teacher"] == 0
    assert traffic["reduced"] == pytest.approx(2 * 3 / 4 * 4 * NETWORK.parameters)
    half = footprint.traffic(NETWORK, Ways(4, sharding="replicate", reduced=2))
    assert half["reduced"] == traffic["reduced"] / 2


def test_nodes_that_shard_by_themselves_gather_as_one_node_and_average_their_shards():
    one, four = footprint.traffic(NETWORK, Ways(4)), footprint.traffic(
        NETWORK, Ways(16, sharding="hybrid", nodes=4)
    )  # fmt: skip
    assert four["gathered for the student"] == one["gathered for the student"]
    between = 2 * 3 / 4 * 4 * NETWORK.parameters / 4
    assert four["reduced"] == pytest.approx(one["reduced"] + between)


def test_without_resharding_a_block_is_gathered_once():
    twice, once = (footprint.traffic(NETWORK, Ways(4, reshard=kept)) for kept in (True, False))
    blocks = NETWORK.parameters - NETWORK.outside
    saved = twice["gathered for the student"] - once["gathered for the student"]
    assert saved == pytest.approx(3 / 4 * 2 * blocks)


def test_a_replica_holds_the_whole_state_and_a_node_of_a_hybrid_shares_it():
    def held(ways: Ways) -> float:
        return footprint.memory(NETWORK, LOAD, ways).by_part["moments"]

    assert held(Ways(8, sharding="replicate")) == held(Ways(1, sharding="none"))
    assert held(Ways(8, sharding="hybrid", nodes=2)) == held(Ways(4))

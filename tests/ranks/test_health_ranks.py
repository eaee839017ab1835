"""What is measured on two gloo processes is what one measures."""

from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.pretrain.loop import pretrain
from tests.pretrain import test_dinov2
from tests.pretrain.test_health import UNEQUAL, rows
from tests.ranks.processes import on_ranks
from tests.ranks.test_ranks import pretrain_on_a_rank


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(
            {"engine.sharding": "replicate", "optim.accumulate": 2}, marks=pytest.mark.slow
        ),
        pytest.param({"method": "dinov2"}, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_measure_what_one_does(
    small: Config, phantoms: dict[str, Path], changes: dict[str, object]
) -> None:
    dino = "method" in changes
    config = test_dinov2.shrunk(small) if dino else override(small, changes)
    probe = {"log.probe": str(phantoms["heldout"]), "log.images": True}
    config = override(config, {"optim.steps": 2, **probe})
    on_ranks(2, pretrain_on_a_rank, config)
    plain = {"name": "alone", "engine.sharding": "auto", "optim.accumulate": 1}
    alone = rows(pretrain(override(config, plain)))
    two = rows(config.directory)
    assert {"feature_rank", "probe_knn"} <= alone[-1].keys()
    for ours, theirs in zip(two, alone, strict=True):
        assert ours.keys() == theirs.keys()
        # of DINOv2 the spread of [CLS] and KoLeo are taken rank by rank
        own = {"feature_rank", "uniformity", "teacher_drift"} & theirs.keys()
        for key in own if dino else theirs.keys() - UNEQUAL:
            assert ours[key] == pytest.approx(theirs[key], rel=2e-3, abs=1e-5), key

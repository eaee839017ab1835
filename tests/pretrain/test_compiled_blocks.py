"""engine.compile: how many graphs a run makes of its blocks, none of them left uncompiled."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from maskedclip.config import Config, override
from maskedclip.pretrain.loop import pretrain
from tests.pretrain import test_dinov2, test_methods, test_simmim

SLOW = pytest.mark.slow


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the graphs as torch's own kernels; what is traced, and how often, stays the same."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    # in place of running a unit that has too many variants as it stands
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


def maskedclip(small: Config) -> Config:
    return test_methods.shrunk(small, "maskedclip")


def rotary(small: Config) -> Config:
    return override(maskedclip(small), {"model.positions": "rotary", "model.registers": 2})


def mae(small: Config) -> Config:
    return test_methods.shrunk(small, "mae")


def clip(small: Config) -> Config:
    return test_methods.shrunk(small, "clip")


# E_I of both groups, B, D_I, D_F and the teacher, whose blocks are all of one shape (but where E_I
# is rotary, and the teacher's B is not); E_T twice, as captions have several lengths. In parts the
# pairs pass alone, too, without gradients. The heads of DINOv2 are a graph of the first number of
# masked patches, then one of any.
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("shrunk", "accumulate", "graphs"),
    [
        (maskedclip, 1, 7),
        pytest.param(maskedclip, 2, 10, marks=SLOW),
        (mae, 1, 2),
        pytest.param(mae, 2, 2, marks=SLOW),
        pytest.param(clip, 1, 3, marks=SLOW),
        pytest.param(clip, 2, 6, marks=SLOW),
        pytest.param(rotary, 1, 8, marks=SLOW),
        pytest.param(test_simmim.shrunk, 1, 1, marks=SLOW),
        pytest.param(test_simmim.shrunk, 2, 1, marks=SLOW),
        pytest.param(test_dinov2.shrunk, 1, 5, marks=SLOW),
    ],
)
def test_every_shape_of_a_block_is_one_graph_without_a_break(
    small, shrunk: Callable[[Config], Config], accumulate, graphs
):
    changes: dict[str, Any] = {"engine.compile": True, "optim.accumulate": accumulate}
    pretrain(override(shrunk(small), changes))
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == graphs

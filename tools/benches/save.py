"""How long training stands still for a checkpoint, against torch's plain `dcp.save`."""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benches.turns import OtherWork, called


def save(millions: int = 50, rounds: int = 5) -> dict[str, float | str | None]:
    """Return the median seconds for which a save keeps the loop waiting, and their ratio.

    The state is `millions` of fp32 parameters and their two AdamW moments. The ways take turns:
    ours aside, ours at once, and dcp.save, which neither hashes nor renames. `aside_until_there_s`
    is when ours aside is hashed, fsynced and renamed, with the loop idle. The first turn, in which
    memory for the copy is found, is apart: `aside_first_s`.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    from maskedclip.engine.checkpoint import Checkpoints
    from maskedclip.engine.distributed import process_group

    seconds: dict[str, list[float]] = {}

    def clock(name: str, action: Callable[[], Any]) -> None:
        start = time.perf_counter()
        action()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    with process_group() as device, tempfile.TemporaryDirectory() as name:
        networks = trained(millions, device)
        folder = Path(name)

        def plain(step: int) -> None:
            weights, moments = get_state_dict(networks[0], networks[2])
            state = {"model": weights, "optimizer": moments}
            dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / f"plain-{step}"))

        with (
            Checkpoints(folder / "aside", 1, asynchronous=True) as aside,
            Checkpoints(folder / "at_once", 1, asynchronous=False) as at_once,
        ):
            others = OtherWork()
            for step in range(rounds + 1):
                clock("aside", partial(aside.save, step, *networks))
                clock("aside_rest", aside.wait)
                clock("at_once", partial(at_once.save, step, *networks))
                clock("plain", partial(plain, step))
            share = others.share()
            aside.finish()
            at_once.finish()
    turns = range(1, rounds + 1)
    there = [seconds["aside"][i] + seconds["aside_rest"][i] for i in turns]
    found = {
        f"{way}_s": statistics.median(seconds[way][1:]) for way in ("aside", "at_once", "plain")
    }
    return found | {
        "aside_first_s": seconds["aside"][0],
        "aside_until_there_s": statistics.median(there),
        "state_gb": millions * 12e-3,
        **called(share, ratio=[seconds["plain"][i] / seconds["aside"][i] for i in turns]),
    }


def trained(millions: int, device: Any) -> tuple[Any, Any, Any]:
    """Return a model of so many parameters, a teacher of hardly any, and AdamW after one step."""
    import torch
    from torch import nn

    from maskedclip.engine.distributed import shard
    from maskedclip.engine.optimizer import adamw

    width = 1000
    layers = [nn.Linear(width, width, bias=False) for _ in range(millions)]
    model, teacher = nn.Sequential(*layers).to(device), nn.Linear(1, 1).to(device)
    shard(model, layers, torch.float32)
    shard(teacher, [], torch.float32, trains=False)
    optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.05)
    model(torch.ones(1, width, device=device)).sum().backward()
    optimizer.step()
    return model, teacher, optimizer

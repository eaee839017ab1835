"""Checkpoints that were damaged on the disk, beside torch.save, DCP and safetensors."""

import logging
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from tortures.damages import damaged
from tortures.trials import (
    OURS,
    Tensors,
    Trial,
    Verdict,
    compared,
    of_an_anchor,
    refused,
)

from maskedclip.engine.checkpoint import Checkpoints, directory_of, restore
from maskedclip.engine.distributed import process_group
from tests.engine.test_checkpoint import numbers, state

NUMBER = 10_000  # trials of the whole form
SECONDS = 30.0  # of a trial; one that takes longer hangs
WIDTH = 2000  # of the first layer: 200 KB, of which most is values


def named(networks: tuple) -> Tensors:
    return {str(number): value for number, value in enumerate(numbers(*networks))}


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """Two whole checkpoints, of which the newer one is damaged and the older one stays."""
    with process_group():
        kept = folder / "kept"
        written: dict[int, Tensors] = {}
        with Checkpoints(kept, 3, asynchronous=False) as checkpoints:
            for step in (1, 2):
                networks = state(step, WIDTH)
                written[step] = named(networks)
                checkpoints.save(step, *networks)
        anchors = Anchors(folder, written[2])
        target = state(7, WIDTH)
        whole = {path.name: path.read_bytes() for path in directory_of(kept, 2).iterdir()}

        def trial(rng: random.Random, _: int) -> Mapping[str, Verdict]:
            of_files = rng.getrandbits(64)
            damage_ours(directory_of(kept, 2), whole, rng)
            try:
                ours = restored(kept, target, written)
            finally:
                write_again(directory_of(kept, 2), whole)
            return {OURS: ours, **anchors.trial(of_files)}

        yield trial


def damage_ours(directory: Path, whole: Mapping[str, bytes], rng: random.Random) -> None:
    """Damage a file, or two; or lose one, or take that of the step before."""
    for name in rng.sample(sorted(whole), rng.choice((1, 1, 1, 2))):
        match rng.randrange(20):
            case 0:
                (directory / name).unlink()
            case 1:
                shutil.copyfile(directory_of(directory.parent, 1) / name, directory / name)
            case _:
                (directory / name).write_bytes(damaged(whole[name], rng))


def write_again(directory: Path, whole: Mapping[str, bytes]) -> None:
    for name, content in whole.items():
        (directory / name).write_bytes(content)


def restored(folder: Path, target: tuple, written: Mapping[int, Tensors]) -> Verdict:
    with torch.no_grad():
        for value in target[0].parameters():  # what is not loaded is seen
            value.zero_()
    logging.disable(logging.WARNING)
    try:
        step = restore(folder, *target)
    except ValueError as error:
        return refused(error, "step-")
    finally:
        logging.disable(logging.NOTSET)
    if not step:
        return Verdict("LOST", "the whole checkpoint of step 1 is passed over, too")
    verdict = compared(named(target), written[step])
    if verdict.outcome == "harmless" and step == 1:
        return Verdict("refused", "step 2 is passed over for step 1")
    return verdict


class Anchors:
    """The same values as three other systems save them."""

    def __init__(self, folder: Path, values: Tensors) -> None:
        self._values, self._dcp = dict(values), folder / "dcp"
        self._pt, self._safe = folder / "anchor.pt", folder / "anchor.safetensors"
        torch.save(self._values, self._pt)
        save_file({name: value.contiguous() for name, value in values.items()}, self._safe)
        dcp.save(self._values, checkpoint_id=self._dcp)
        files = [self._pt, self._safe, *self._dcp.iterdir()]
        self._whole = {path: path.read_bytes() for path in files}

    def trial(self, seed: int) -> dict[str, Verdict]:
        of_dcp = random.Random(seed).choice([".metadata", "__0_0.distcp"])
        return {
            "torch.save": self._one(
                self._pt, seed, lambda: torch.load(self._pt, weights_only=True)
            ),
            "DCP": self._one(self._dcp / of_dcp, seed, self._load_dcp),
            "safetensors": self._one(self._safe, seed, lambda: load_file(self._safe)),
        }

    def _one(self, path: Path, seed: int, load: Callable[[], Any]) -> Verdict:
        path.write_bytes(damaged(self._whole[path], random.Random(seed)))
        try:
            return of_an_anchor(load, lambda found: compared(found, self._values))
        finally:
            path.write_bytes(self._whole[path])

    def _load_dcp(self) -> Tensors:
        found = {name: torch.zeros_like(value) for name, value in self._values.items()}
        dcp.load(found, checkpoint_id=self._dcp)
        return found

"""What is measured and drawn beside the steps of a run, with no effect on what is learnt."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from maskedclip.config import Config
from maskedclip.data.source import Source
from maskedclip.data.stream import Batch
from maskedclip.engine.goodput import MEASURING
from maskedclip.engine.step_log import StepLog
from maskedclip.pretrain.due import Looks
from maskedclip.pretrain.fixed_samples import fixed_samples
from maskedclip.pretrain.health import health
from maskedclip.pretrain.methods.protocol import At, Measured, Method
from maskedclip.pretrain.probe import OnlineProbe, Probed, best_so_far
from maskedclip.pretrain.sample_sheet import sheet

PICTURES = "pictures/fixed_samples"
_SHOWN = (
    "the same images through the whole run: as the encoder sees them, what is predicted, where D_F "
    "meets the teacher, which patches are like their image, and the nearest captions"
)


class Monitor:
    """Health, probe and pictures of a run. Every rank calls each of these."""

    def __init__(
        self,
        config: Config,
        method: Method,
        sources: tuple[Source | None, Source | None],
        probed: Probed | None,
        device: torch.device,
    ) -> None:
        self._run: Path = config.directory
        self._model, self._loss = config.model, config.loss
        self._method, self._device, self._probed = method, device, probed
        self._probe = OnlineProbe(probed, config, device) if probed is not None else None
        draws = config.engine.pictures_every and isinstance(method, Measured)
        self._fixed = fixed_samples(config, sources, method.tokenize) if draws else None

    def begin(self, log: StepLog) -> None:
        """Probe the weights that the run begins with, before its first step."""
        if (probe := self._probe) is None or not isinstance(self._method, Measured):
            return
        method = self._method
        with _aside(self._device):
            log.write_beginning(lambda: probe.scores(method))

    def measure(self, batch: Batch, at: At, looks: Looks) -> dict[str, float]:
        """Return what is measured after a step on its batch."""
        return health(self._method, batch, at, self._device, looks, self._probe)

    def show(self, log: StepLog, step: int, looks: Looks) -> None:
        """Draw what is due after `step` steps, whose row is written."""
        probed = self._probed if looks.probe and dist.get_rank() == 0 else None
        if probed is not None and (words := best_so_far(self._run, step, probed)):
            log.text(step, "probe/best", words, "the best look so far, and the last")
        if not looks.pictures or self._fixed is None or not isinstance(self._method, Measured):
            return
        with log.spending(MEASURING), _aside(self._device):
            shown = self._method.show(self._fixed.on(self._device))
            if dist.get_rank() == 0:
                normalised = self._loss.normalise_pixels
                picture = sheet(self._fixed, shown, self._model.patch_size, normalised)
                log.image(step, PICTURES, picture, _SHOWN)


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Draw no number of the training's, and compile nothing for shapes that it has not."""
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.compiler.set_stance("force_eager"),
    ):
        yield

"""What the training loop, the plan and the export ask of a pre-training method."""

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maskedclip.config import Config
from maskedclip.data.rows import View
from maskedclip.data.stream import Batch
from maskedclip.engine.step_guard import StepGuard
from maskedclip.models.shapes import NetworkShape
from maskedclip.models.text import Tokenizer


class At(NamedTuple):
    """Where in a run a step is."""

    step: int  # optimizer steps taken before it
    total: int  # steps of the whole run
    lr: float  # scheduled learning rate
    measured: bool = False  # whether its gradient norms are wanted by part (pretrain/health.py)


class Seen(NamedTuple):
    """What a method makes of a batch without learning from it; None for what it has not.

    B this rank's images, A the paired ones (the first rows), R those of which features are taken.
    """

    mean_RD: Tensor  # of the patches of whole images, by the encoder that is exported
    image_AD: Tensor | None = None  # unit rows
    text_AD: Tensor | None = None
    label_A: Tensor | None = None
    logit_scale: Tensor | None = None
    logit_bias: Tensor | None = None  # of the sigmoid contrast
    target_BND: Tensor | None = None  # of the teacher
    feature_BND: Tensor | None = None  # D_F at all patches, or at the hidden ones
    hidden_BN: Tensor | None = None


class Shown(NamedTuple):
    """What a method makes of B images that are drawn; None for what it has not."""

    image_BCHW: Tensor  # normalised
    patch_BND: Tensor  # of whole images, by the encoder that is exported
    hidden_BM: Tensor | None = None  # patches that the encoder did not see
    pixel_BMP: Tensor | None = None  # predicted of these
    teacher_cosine_BN: Tensor | None = None  # of D_F to the teacher; NaN where it predicts nothing
    image_BD: Tensor | None = None  # unit rows
    text_CD: Tensor | None = None  # of the captions


@runtime_checkable
class Measured(Protocol):
    """A method that pretrain/monitor.py can look into; one without these has fewer curves."""

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Return mean_BD of the patches, by the encoder that is exported; every rank calls it."""

    def look(self, batch: Batch, images: int) -> Seen:
        """Return what is made of a batch on the device, features of at most `images` of it."""

    def show(self, batch: Batch) -> Shown:
        """Return what is made of fixed samples on the device; every rank calls it with the same."""

    def alone(self, batch: Batch, at: At) -> Iterator[str]:
        """Yield the name of each term, the gradients being those of this term alone, weighted.

        A method of one term yields none. No gradients are left behind.
        """


class Method(Protocol):
    """A pre-training method: its networks, its step, its weights.

    The networks are sharded over all ranks and equal for every number of them.
    """

    paper: ClassVar[str]  # title and authors, for the model card
    fields: ClassVar[tuple[str, ...]]  # prefixes of the config fields that it alone reads
    tokenize: Tokenizer

    def __init__(self, config: Config, device: torch.device) -> None: ...

    @property
    def model(self) -> nn.Module:
        """The student, whose weights the optimizer updates."""

    @property
    def teacher(self) -> nn.Module | None:
        """What follows the student as an exponential moving average, if anything."""

    @property
    def optimizer(self) -> Optimizer: ...

    @staticmethod
    def check(config: Config) -> None:
        """Raise ValueError, without building anything, where the method cannot do as asked."""

    @staticmethod
    def terms(config: Config) -> dict[str, float]:
        """Return the loss terms that are learnt, in words, and their weights."""

    @staticmethod
    def view(config: Config) -> View:
        """Return how a stored sample becomes a row of a batch."""

    @staticmethod
    def shape(config: Config) -> dict[str, Any]:
        """Return the keywords of `models.maskedclip.build` for what is exported."""

    @staticmethod
    def network(config: Config) -> tuple[NetworkShape, list[str]]:
        """Return the shapes that the cost is counted from, and what was assumed about them."""

    def step(self, batch: Batch, at: At, guard: StepGuard) -> dict[str, Tensor]:
        """Take one optimizer step; one that `guard` does not admit changes no weight.

        Returns scalars on the device, means over all ranks; `loss` and `grad_norm` among them.
        """

    def step_flops(self, batch: Batch) -> float:
        """Return the floating point operations of a step of all ranks, for the MFU."""

    def exported(self) -> dict[str, Tensor]:
        """Return the full weights that a run leaves, on rank 0; every rank calls it."""

"""The shapes of a run's networks as plain numbers: what its cost is counted from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class StackShape(NamedTuple):
    """A stack of equal blocks; width_in and width_out are those of a decoder's ends."""

    name: str
    depth: int
    width: int
    hidden: int  # of the MLP
    heads: int
    unit: int  # parameters of one block
    rest: int  # parameters outside of the blocks
    width_in: int = 0
    width_out: int = 0

    @property
    def parameters(self) -> int:
        return self.depth * self.unit + self.rest


def absent(name: str) -> StackShape:
    """Return a stack that a method does without: no parameters, no tokens."""
    return StackShape(name, 0, 0, 0, 0, 0, 0)


class CropShape(NamedTuple):
    """Crops of an image, and the heads that compare them with prototypes (DINOv2)."""

    large: int
    small: int
    small_patches: int
    masked: float  # patches of an image that the heads take, the mean
    hidden: int  # of a head's two hidden layers
    bottleneck: int
    prototypes: int  # of a head

    @property
    def rows(self) -> float:
        """Rows of an image that the student's heads take: [CLS] of each crop, masked patches."""
        return self.large + self.small + self.masked

    @property
    def teacher_rows(self) -> float:
        return self.large + self.masked

    def products(self, width: int) -> int:
        """Return how many numbers a head multiplies for one row."""
        first, last = width * self.hidden, self.bottleneck * self.prototypes
        return first + self.hidden**2 + self.hidden * self.bottleneck + last


def stack_shape(
    name: str,
    module: nn.Module,
    blocks: nn.ModuleList,
    *,
    width: int,
    hidden: int,
    heads: int,
    width_in: int = 0,
    width_out: int = 0,
) -> StackShape:
    """Return the shape of `module`, whose equal blocks are `blocks`."""
    unit = parameter_count(blocks[0]) if len(blocks) else 0
    rest = parameter_count(module) - len(blocks) * unit
    return StackShape(name, len(blocks), width, hidden, heads, unit, rest, width_in, width_out)


def parameter_count(module: nn.Module) -> int:
    """Return the number of a module's parameters, buffers left out."""
    return sum(parameter.numel() for parameter in module.parameters())


class BatchShape(NamedTuple):
    """Images of a step, how many of them are paired, and tokens of a caption."""

    images: int
    paired: int
    text_tokens: int

    def micro_batch(self, count: int) -> BatchShape:
        """Return the largest of `count` nearly equal micro-batches."""
        return BatchShape(-(-self.images // count), -(-self.paired // count), self.text_tokens)


class NetworkShape(NamedTuple):
    """All networks of a run, the student's in the order they run."""

    encoder: StackShape
    pixel_decoder: StackShape
    feature_decoder: StackShape
    bridge: StackShape
    text: StackShape
    projections: int  # parameters of the maps into the joint space and tau, or of a mask token
    projection: int  # features of the joint space
    patches: int
    visible: int
    patch_values: int
    image_values: int
    bridge_shared: bool = False  # B runs on the visible tokens of all images too
    distils_hidden: bool = False  # D_F predicts the hidden patches alone
    mask_tokens: bool = False  # E_I runs on all patches, mask tokens in place of the hidden ones
    crops: CropShape | None = None  # E_I runs on them, mask tokens among their patches
    heads: StackShape = absent("heads")  # a unit each
    registers: int = 0  # tokens of E_I alone

    @property
    def masks(self) -> bool:
        """Whether E_I runs on visible patches alone, besides whole images."""
        return bool(self.pixel_decoder.width or self.feature_decoder.width)

    @property
    def contrasts(self) -> bool:
        return bool(self.text.width)

    @property
    def has_teacher(self) -> bool:
        return bool(self.feature_decoder.width or self.crops)

    @property
    def embedded(self) -> int:
        """Patches of an image that are embedded in a step, by the student."""
        crops = self.crops
        if crops is None:
            return self.patches
        return crops.large * self.patches + crops.small * crops.small_patches

    @property
    def cuts(self) -> int:
        """Crops that are cut from an image."""
        return self.crops.large + self.crops.small if self.crops else 1

    @property
    def students(self) -> tuple[StackShape, ...]:
        return (
            self.encoder,
            self.pixel_decoder,
            self.feature_decoder,
            self.bridge,
            self.text,
            self.heads,
        )

    @property
    def predicted(self) -> dict[StackShape, int]:
        """Patches that each decoder predicts."""
        hidden = self.patches - self.visible
        distilled = hidden if self.distils_hidden else self.patches
        return {self.pixel_decoder: hidden, self.feature_decoder: distilled}

    @property
    def parameters(self) -> int:
        return sum(stack.parameters for stack in self.students) + self.projections

    @property
    def outside(self) -> int:
        """Parameters of the student outside of blocks: gathered together, by FSDP's root."""
        return self.parameters - sum(stack.depth * stack.unit for stack in self.students)

    @property
    def teacher_parameters(self) -> int:
        followed = self.encoder, self.bridge, self.heads
        return self.has_teacher * sum(stack.parameters for stack in followed)

    def first_tokens(self, stack: StackShape) -> int:
        """Return the tokens of a sequence before its patches: [CLS], of E_I registers."""
        return 1 + (self.registers if stack is self.encoder else 0)

    def groups(self, stack: StackShape, batch: BatchShape) -> tuple[tuple[int, int], ...]:
        """Return the (sequences, tokens in one) that `stack` processes in a step."""
        first = self.first_tokens(stack)
        whole = self.patches + first
        masked = ((batch.images, self.visible + first),)
        paired = ((batch.paired, whole),) if self.contrasts else ()
        if self.crops is not None:
            large = (self.crops.large * batch.images, whole)
            small = (self.crops.small * batch.images, self.crops.small_patches + first)
            return (large, small) if stack is self.encoder else ()
        if self.mask_tokens:  # a linear head has no blocks of its own
            return ((batch.images, whole),) if stack is self.encoder else ()
        if stack is self.encoder:
            return (masked if self.masks else ()) + paired
        if stack is self.bridge:
            return (masked if self.bridge_shared else ()) + paired
        if stack is self.text:
            return ((batch.paired, batch.text_tokens),)
        return ((batch.images, whole),)

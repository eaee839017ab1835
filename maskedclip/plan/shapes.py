"""The shapes of a run's networks as plain numbers: what its cost is counted from."""

from typing import NamedTuple


class Part(NamedTuple):
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


def absent(name: str) -> Part:
    """Return a part that a method does without: it has no parameters and sees nothing."""
    return Part(name, 0, 0, 0, 0, 0, 0)


class Load(NamedTuple):
    """Images of a step, how many of them are paired, and tokens of a caption."""

    images: int
    paired: int
    text_tokens: int

    def part(self, parts: int) -> "Load":
        """Return the largest of `parts` nearly equal parts."""
        return Load(-(-self.images // parts), -(-self.paired // parts), self.text_tokens)


class Network(NamedTuple):
    """All networks of a run, the student's in the order they run."""

    encoder: Part
    pixel_decoder: Part
    feature_decoder: Part
    bridge: Part
    text: Part
    projections: int  # parameters of the linear maps into the joint space, and tau
    projection: int  # features of the joint space
    patches: int
    visible: int
    patch_values: int
    image_values: int
    bridge_shared: bool = False  # B sees the visible tokens of all images too
    distils_hidden: bool = False  # D_F predicts the hidden patches alone

    @property
    def masks(self) -> bool:
        """Whether E_I looks at visible patches alone, besides whole images."""
        return bool(self.pixel_decoder.width or self.feature_decoder.width)

    @property
    def contrasts(self) -> bool:
        return bool(self.text.width)

    @property
    def has_teacher(self) -> bool:
        return bool(self.feature_decoder.width)

    @property
    def students(self) -> tuple[Part, ...]:
        return (
            self.encoder,
            self.pixel_decoder,
            self.feature_decoder,
            self.bridge,
            self.text,
        )

    @property
    def predicted(self) -> dict[Part, int]:
        """Patches that each decoder predicts."""
        hidden = self.patches - self.visible
        distilled = hidden if self.distils_hidden else self.patches
        return {self.pixel_decoder: hidden, self.feature_decoder: distilled}

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.students) + self.projections

    @property
    def outside(self) -> int:
        """Parameters of the student outside of blocks: gathered together, by FSDP's root."""
        return self.parameters - sum(part.depth * part.unit for part in self.students)

    @property
    def teacher_parameters(self) -> int:
        return self.has_teacher * (self.encoder.parameters + self.bridge.parameters)

    def groups(self, part: Part, load: Load) -> tuple[tuple[int, int], ...]:
        """Return the (sequences, tokens of each) that `part` sees in a step."""
        whole = self.patches + 1
        masked = ((load.images, self.visible + 1),)
        paired = ((load.paired, whole),) if self.contrasts else ()
        if part is self.encoder:
            return (masked if self.masks else ()) + paired
        if part is self.bridge:
            return (masked if self.bridge_shared else ()) + paired
        if part is self.text:
            return ((load.paired, load.text_tokens),)
        return ((load.images, whole),)

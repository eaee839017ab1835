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
        return {self.pixel_decoder: hidden, self.feature_decoder: self.patches}

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.students) + self.projections

    @property
    def outside(self) -> int:
        """Parameters of the student outside of blocks: gathered together, by FSDP's root."""
        return self.parameters - sum(part.depth * part.unit for part in self.students)

    @property
    def teacher_parameters(self) -> int:
        return self.encoder.parameters + self.bridge.parameters

    def groups(self, part: Part, load: Load) -> tuple[tuple[int, int], ...]:
        """Return the (sequences, tokens of each) that `part` sees in a step."""
        whole = self.patches + 1
        if part is self.encoder:
            return ((load.images, self.visible + 1), (load.paired, whole))
        if part is self.bridge:
            return ((load.paired, whole),)
        if part is self.text:
            return ((load.paired, load.text_tokens),)
        return ((load.images, whole),)

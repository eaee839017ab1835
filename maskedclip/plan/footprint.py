"""What one training step costs a GPU, by part, from shapes alone: operations, traffic, memory.

The memory is that of FSDP2 with a unit a block, walked through in the order of the step; what a
block keeps for its backward pass is counted in widths of its tokens. tests/plan/test_plan.py
holds it against traced runs.
"""

from collections.abc import Iterator
from typing import NamedTuple

from maskedclip.models.shapes import BatchShape, CropShape, NetworkShape, StackShape

# of a block, in widths of a token: input, norm, q k v, mixed, sum, norm, 4 of fc1, and of a BERT's
# layer the 4 of its GELU, which our blocks take again in the backward pass
_KEPT, _KEPT_OF_BERT, _JOINED = 12, 16, 1  # and the groups of a packed pass joined again
_STATISTICS = 16  # bytes a token: mean and deviation of two norms in fp32
_BACKWARD = 5  # widths that gradients need on top of what is kept, at the MLP
_FORWARD = 11  # widths that live at once in a block that keeps nothing, at the MLP
_FP32 = 4
_HELD = "weights gathered or cast"  # beside those of the block that runs


class Memory(NamedTuple):
    """Bytes of one GPU at the fullest moment of a step."""

    when: str
    by_part: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_part.values())


class Ways(NamedTuple):
    """How a step is computed, and how its state lies on the GPUs (engine/sharding.py)."""

    world: int  # ranks
    value: int = 2  # bytes of a value
    parts: int = 1  # of a share
    recompute: bool = False
    sharding: str = "shard"
    nodes: int = 1
    reduced: int = _FP32  # bytes of a gradient on its way
    reshard: bool = True  # after forward

    @property
    def is_whole(self) -> bool:
        """Whether all weights lie on every GPU."""
        return self.sharding in ("none", "replicate")

    @property
    def shards(self) -> int:
        """GPUs that share one state."""
        return {"shard": self.world, "hybrid": self.world // self.nodes}.get(self.sharding, 1)


def flops(network: NetworkShape, load: BatchShape) -> dict[str, float]:
    """Return floating point operations of all GPUs a step by part, `teacher` among them.

    A product of n x k and k x m counts 2nkm, backward twice the forward; norms, activations, the
    optimizer and anything done twice to save memory are left out, as is usual for MFU.
    """
    patch = 2 * load.images * network.patch_values * network.encoder.width
    forward = {part.name: _blocks(part, network.groups(part, load)) for part in network.students}
    forward["E_I"] += network.embedded * patch
    if network.crops:
        forward["heads"] = _of_heads(network, network.crops.rows * load.images)
    for part, predicted in network.predicted.items():
        ends = (network.visible + 1) * part.width_in + predicted * part.width_out
        forward[part.name] += 2 * load.images * ends * part.width
    operations = {name: 3 * count for name, count in forward.items()}
    if not network.has_teacher:
        return operations
    crops, large = network.crops, network.crops.large if network.crops else 1
    teacher: float = large * network.patches * patch
    teacher += _of_whole(network, large * load.images)
    if crops:
        teacher += _of_heads(network, crops.teacher_rows * load.images)
    return operations | {"teacher": teacher}


def again(network: NetworkShape, load: BatchShape, ways: Ways) -> float:
    """Return the operations that are done a second time, to save memory, in one step."""
    more = 0.0
    if ways.recompute:
        more += sum(_blocks(part, network.groups(part, load)) for part in network.students)
        if network.crops:
            more += _of_heads(network, network.crops.rows * load.images)
    if ways.parts > 1 and network.contrasts:  # the features of all pairs come first
        more += _of_whole(network, load.paired)
        more += _blocks(network.text, network.groups(network.text, load))
    return more


def _blocks(part: StackShape, groups: tuple[tuple[int, int], ...]) -> float:
    linear = 8 * part.width**2 + 4 * part.width * part.hidden
    return part.depth * sum(
        images * length * (linear + 4 * length * part.width) for images, length in groups
    )


def _of_whole(network: NetworkShape, images: int) -> float:
    """Return the operations of whole images through E_I and B, the patch embedding left out."""
    return sum(
        _blocks(part, ((images, network.patches + network.first_tokens(part)),))
        for part in (network.encoder, network.bridge)
    )


def _of_heads(network: NetworkShape, rows: float) -> float:
    assert network.crops is not None
    return 2 * rows * network.crops.products(network.encoder.width)


def traffic(network: NetworkShape, ways: Ways) -> dict[str, float]:
    """Return bytes that each GPU receives (gathered) and sends (reduced) a step.

    A student's block is gathered once in forward and once in backward, what is outside of blocks
    once, the teacher once; gradients are reduced over the shards, and averaged over their copies.
    Parts of a share keep what is gathered, and reduce the gradients of all of them at once.
    """
    share = (ways.shards - 1) / ways.shards
    rest = network.outside
    blocks = network.parameters - rest
    passes = 2 if ways.reshard and ways.parts == 1 else 1
    copies = ways.world // ways.shards
    averaged = 2 * (copies - 1) / copies / ways.shards  # there and back
    return {
        "gathered for the student": share * ways.value * (passes * blocks + rest),
        "gathered for the teacher": share * ways.value * network.teacher_parameters,
        "reduced": (share + averaged) * ways.reduced * network.parameters,
    }


def memory(network: NetworkShape, load: BatchShape, ways: Ways) -> Memory:
    """Return the fullest moment of a step of one GPU, whose share of the batch is `load`."""
    return max(_moments(network, load, ways), key=lambda moment: moment.total)


def _moments(network: NetworkShape, load: BatchShape, ways: Ways) -> Iterator[Memory]:
    part_load = load.micro_batch(ways.parts)
    fixed = _fixed(network, load, ways)
    kept = {part.name: kept_bytes(part, network, part_load, ways) for part in network.students}
    losses, values, pixels = _losses(network, part_load, ways)
    fixed["losses"] = losses
    sharded = _FP32 * network.parameters / ways.shards
    # replicas' gradients lie in their buckets from the first on
    before = sharded if ways.sharding == "replicate" else 0.0
    if ways.parts > 1:  # added up whole until the last part
        before = _FP32 * network.parameters

    yield from _before_backward(network, part_load, ways, fixed | kept | {"gradients": before})

    fixed["losses"] = (values + pixels) * ways.value / _FP32  # their slopes alone are left
    if network.crops:
        logits = part_load.images * network.crops.rows * network.crops.prototypes
        fixed["losses"] = logits * ways.value
    done, outside = 0, network.outside
    left = dict(kept)
    for part in reversed(network.students):
        tokens = sum(images * length for images, length in network.groups(part, part_load))
        work: float = _BACKWARD * part.width * tokens * ways.value
        if ways.recompute:  # all but the input, which was kept
            work += _block_bytes(part, network, part_load, ways.value)
            work -= part.width * tokens * ways.value
            if network.crops and part is network.heads:
                work += _within_heads(network.crops, network.heads, part_load, ways.value)
        # weights of this block and the next, its gradients, and both buffers of the reduction
        shards = _FP32 / ways.shards
        each = 2 * ways.value if ways.is_whole else 4 * ways.value + _FP32 + shards
        buffers = part.unit * each if part.depth else 0.0
        buffers += outside * ways.value  # gradients of what is outside of blocks
        gradients = max(before, done * shards)
        now = fixed | left | {"gradients": gradients, "working": work + buffers}
        yield Memory(f"backward of {part.name}", now)
        left[part.name] = 0.0
        done += part.depth * part.unit

    # what is outside of blocks is reduced last, in one piece, its gathered weights gone by then
    fixed[_HELD] = 0.0
    work = 0 if ways.is_whole else outside * _FP32
    yield Memory("the end of backward", fixed | left | {"gradients": sharded, "working": work})


def _before_backward(
    network: NetworkShape, load: BatchShape, ways: Ways, now: dict[str, float]
) -> Iterator[Memory]:
    """Yield the moments of the teacher and of the losses; `now` is what the latter find there."""
    _, values, pixels = _losses(network, load, ways)
    width, crops = network.encoder.width, network.crops
    images = load.images * (crops.large if crops else 1)
    tokens = network.patches + network.first_tokens(network.encoder)
    row: float = width * images * tokens * ways.value
    if network.has_teacher:
        gathered = 2 * ways.value * network.encoder.unit
        kept_later = ("losses", *(part.name for part in network.students))
        first = {name: size for name, size in now.items() if name not in kept_later}
        yield Memory("the teacher's pass", first | {"working": (_FORWARD + 2) * row + gathered})
    if network.feature_decoder.width:
        yield Memory("the loss of eq. 5", now | {"working": 5 * values + row})
    if crops:
        product = _FP32 * load.images * crops.prototypes * crops.masked
        logits = ways.value * load.images * crops.prototypes * (crops.rows + crops.teacher_rows)
        with_logits = {"losses": now["losses"] + logits, "working": product}  # of iBOT's sum
        yield Memory("the losses of prototypes", now | with_logits)
        # the slopes of iBOT's logarithms, and of the logits that they are of
        yield Memory("backward of the losses", now | {"working": 2 * product})
    else:
        # the slope of eq. 1: a few fp32 copies of what D_I predicted
        yield Memory("backward of the losses", now | {"working": 3 * pixels})


def _fixed(network: NetworkShape, load: BatchShape, ways: Ways) -> dict[str, float]:
    pixels = load.images * network.image_values
    copies = ways.value % _FP32 + (_FP32 if ways.parts > 1 else 0)  # in bf16, and of one part
    if ways.is_whole:  # what a cast gives is kept for the backward pass; in fp32 nothing is cast
        held = ways.value % _FP32 * network.parameters
    else:
        keeps = ways.parts > 1 or not ways.reshard
        held = ways.value * (network.parameters if keeps else network.outside)
        held += ways.value * network.teacher_parameters * (ways.parts > 1)
    return {
        "parameters": _FP32 * network.parameters / ways.shards,
        "moments": 2 * _FP32 * network.parameters / ways.shards,
        "teacher": _FP32 * network.teacher_parameters / ways.shards,
        _HELD: held,
        "images": pixels * (1 + _FP32 + copies / ways.parts),
    }


def kept_bytes(part: StackShape, network: NetworkShape, load: BatchShape, ways: Ways) -> float:
    """Return what a part keeps of its forward pass for its backward pass."""
    groups = network.groups(part, load)
    tokens = sum(images * length for images, length in groups)
    row = part.width * ways.value
    block = row * tokens if ways.recompute else _block_bytes(part, network, load, ways.value)
    kept = part.depth * block
    if network.crops and part is network.heads:
        kept = load.images * network.crops.rows * row
        if not ways.recompute:
            kept += _within_heads(network.crops, part, load, ways.value)
    if part is network.encoder:
        # the last block's output and its norm; patches, which choosing visible ones holds on to
        patches = 0 if network.mask_tokens else load.images * network.patches
        kept += row * (2 * tokens + patches)
    elif part in network.predicted:
        rows = load.images * network.predicted[part]
        # D_I's norm has a copy of what is chosen as its input; a linear head has no norm
        copies = part is network.pixel_decoder and not network.mask_tokens
        chosen = 2 * rows if copies else rows
        kept += row * (tokens + chosen) + rows * part.width_out * ways.value
    elif part is network.text:
        kept += row * tokens
    return kept


def _block_bytes(part: StackShape, network: NetworkShape, load: BatchShape, value: int) -> float:
    groups = network.groups(part, load)
    tokens = sum(images * length for images, length in groups)
    widths = _KEPT_OF_BERT if part is network.text else _KEPT
    widths += _JOINED if len(groups) > 1 else 0
    return tokens * (widths * part.width * value + _STATISTICS + part.heads * _FP32)


def _within_heads(crops: CropShape, heads: StackShape, load: BatchShape, value: int) -> float:
    """Return the bytes that heads keep of their rows beside these, and of unit prototypes."""
    row = 4 * crops.hidden + 2 * crops.bottleneck  # a GELU keeps its input, and is kept
    units = heads.depth * crops.prototypes * crops.bottleneck
    return value * (load.images * crops.rows * row + units)


def _losses(network: NetworkShape, load: BatchShape, ways: Ways) -> tuple[float, float, float]:
    """Return bytes of what the losses keep, of all patches' features and of hidden pixels in fp32.

    They keep the pixels' targets and differences, and the normed features of both sides; of
    prototypes targets, logarithms, and DINO's sums of the targets of an image's other crops.
    """
    if crops := network.crops:
        rows = crops.rows + crops.teacher_rows + crops.large + 1
        return _FP32 * load.images * crops.prototypes * rows, 0.0, 0.0
    predicted = network.predicted
    # of a part that is absent, the width is 0
    distilled, hidden = predicted[network.feature_decoder], predicted[network.pixel_decoder]
    values = _FP32 * load.images * distilled * network.feature_decoder.width
    pixels = _FP32 * load.images * hidden * network.pixel_decoder.width_out
    pairs = load.paired * ways.parts if network.contrasts else 0
    logits = 6 * 2 * _FP32 * load.paired * pairs * ways.world
    features = 4 * _FP32 * pairs * ways.world * network.projection
    copies = 2 if ways.value < _FP32 else 1
    return 2 * pixels + copies * values + logits + features, values, pixels

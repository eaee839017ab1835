"""What a run will cost before it runs: memory, operations, traffic, time, energy, disk.

    python tools/plan.py [RECIPE] --nodes 1 --gpus 4 --gpu a100-80 [--mfu 0.4] [--json]
        [--images PAIRED,UNPAIRED] [--SECTION.FIELD=VALUE ...]

Nothing is trained and no GPU is needed: everything is counted from the shapes of the networks.
Without RECIPE it is maskedclip_vitl, the paper's. `--gpu` is one of: {gpus}.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from maskedclip.command import one_line_errors, read_config
from maskedclip.config import Config, DataConfig, check_divisible, override
from maskedclip.engine.gpu_specs import GPUS, Gpu, find_gpu
from maskedclip.models.shapes import BatchShape, NetworkShape
from maskedclip.plan import footprint
from maskedclip.plan.footprint import Memory, Ways
from maskedclip.plan.loader import Decoding, decoding
from maskedclip.plan.units import in_bytes, in_column, in_count, in_time, in_weight

USAGE = (__doc__ or "").format(gpus=", ".join(GPUS))
PAPER_IMAGES = (142_249, 348_481 - 142_249)  # paired, unpaired
_PARTS = ("E_I", "D_I", "B", "D_F", "E_T", "heads", "projections", "teacher")
_KIND = {2: "bf16", 4: "fp32"}  # by bytes of a value
_TIGHT = 0.97  # share of a card's memory beyond which CUDA's own cannot find room
_LAUNCHES_S = {True: 0.1, False: 0.2}  # of a step of ViT-L, whole on each GPU or not; estimated
_NODE, _NODES = 8, 16  # GPUs of a node, and nodes, up to which more are proposed
FULL = 0.9  # share of a card's memory that a plan may fill: the rest is CUDA's, NCCL's and gaps


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """On what, and how well, the run is to be carried out."""

    nodes: int = 1
    gpus: int = 4  # a node
    gpu: str = "a100-80"  # name and GB of the card
    mfu: float = 0.4  # share of the card's matrix rate that the run reaches
    images: tuple[int, ...] = ()  # paired,unpaired samples; none: of the shards, or the paper's
    caption_tokens: int = 0  # of the longest caption of a step; 0: model.text_tokens
    cpus_per_rank: int = 8  # cores beside each GPU, of which all but one decode
    shard_size: int = 0  # pixels of the stored images; 0: of the shards, else 512
    pue: float = 1.2  # energy of the whole centre per energy of its computers
    kg_per_kwh: float = 0.4  # CO2e of the electricity
    json: bool = False  # one JSON object instead of a table

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus < 1:
            raise ValueError(f"nodes {self.nodes}, gpus {self.gpus}: both are at least 1")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"mfu {self.mfu}: write a share, 0 < mfu <= 1")
        if len(self.images) not in (0, 2) or any(count < 0 for count in self.images):
            raise ValueError("images: write two counts, paired,unpaired, such as 142249,206232")
        if min(self.caption_tokens, self.shard_size, self.kg_per_kwh) < 0:
            raise ValueError("caption_tokens, shard_size and kg_per_kwh are at least 0")
        if self.pue < 1 or self.cpus_per_rank < 1:
            raise ValueError("pue and cpus_per_rank are at least 1")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run's cost; bytes and seconds are of one GPU and one step where not said otherwise."""

    run: str
    gpu: str
    nodes: int
    gpus: int  # a node
    mfu: float
    load: BatchShape  # of one GPU
    parts: int  # that it is computed in
    parameters: dict[str, int]
    flops: dict[str, float]  # all GPUs
    flops_again: float  # all GPUs, to save memory
    traffic: dict[str, float]
    memory: Memory
    usable_bytes: float
    largest: tuple[int, int]  # paired and unpaired images a GPU that fit
    fixes: tuple[str, ...]  # each makes the run fit; none where it does, or where nothing would
    snapshot_bytes: float  # in the memory of a node, while a checkpoint is written aside
    checkpoint_bytes: float
    disk_bytes: float  # at most
    staged_bytes: float  # of shards, on each node's own disk
    step_s: float
    exchange_s: float  # of step_s, where nothing were hidden behind work
    images_per_s: float  # of all GPUs: what the loader must bring
    decoding: Decoding  # for one GPU
    images: tuple[int, int]  # paired and unpaired samples
    epochs: float
    steps: int
    hours: float
    gpu_hours: float
    kg_co2e: float
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.memory.total <= FULL * self.usable_bytes


def plan(  # noqa: PLR0913 (the run, its machine, what is assumed)
    config: Config,
    *,
    nodes: int,
    gpus: int,
    gpu: str,
    mfu: float = 0.4,
    images: tuple[int, ...] = (),
    caption_tokens: int = 0,
    cpus_per_rank: int = 8,
    shard_size: int = 0,
    pue: float = 1.2,
    kg_per_kwh: float = 0.4,
    smallest: float | None = None,  # bytes of the smallest card there
) -> Plan:
    """Return what `config` costs on nodes x gpus cards of the name `gpu`.

    Raises ValueError for an unknown card, precision or text tower, and a batch not to be shared.
    """
    card, data, world = find_gpu(gpu, smallest), config.data, nodes * gpus
    check_divisible((data.paired_batch, data.unpaired_batch), world, config.optim.accumulate)
    value, peak = _precision(config, card, gpu)
    from maskedclip.pretrain.methods import method_of  # loads torch

    network, assumed = method_of(config).network(config)
    counts, said = _samples(config, images)
    tokens = caption_tokens or config.model.text_tokens
    whole = BatchShape(data.paired_batch + data.unpaired_batch, data.paired_batch, tokens)
    share = BatchShape(whole.images // world, whole.paired // world, whole.text_tokens)
    ways = _ways(config, network, card, world, nodes, value)
    flops, again = footprint.flops(network, whole), footprint.again(network, whole, ways)
    traffic = footprint.traffic(network, ways)
    step_s = (sum(flops.values()) + again) / (world * peak * mfu)
    epochs, steps = _length(config, counts)
    hours = steps * step_s / 3600
    state = 4 * (3 * network.parameters + network.teacher_parameters)
    exported = 4 * (network.parameters + network.encoder.parameters)
    notes = [*assumed, *said]
    notes.append(f"CO2e: {card.watts} W a board x PUE {pue:g} x {kg_per_kwh:g} kg/kWh")
    notes += _on_step(network, ways, share, step_s)
    decoded = decoding(data, share.images / step_s, cpus_per_rank, shard_size, network.cuts)
    notes += [f"STARVED: {decoded.starves}"] if decoded.starves else []
    notes.append(f"{_KIND[value]} at {peak / 1e12:g} TFLOP/s a card (data sheet)")
    memory, room = footprint.memory(network, share, ways), FULL * card.usable_gib * 2**30
    return Plan(
        run=config.name, gpu=gpu, nodes=nodes, gpus=gpus, mfu=mfu,
        load=share, parts=ways.parts,
        parameters=_parameters(network), flops=flops, flops_again=again, traffic=traffic,
        memory=memory,
        usable_bytes=card.usable_gib * 2**30,
        largest=_largest(network, share, ways, room),
        fixes=() if memory.total <= room else _fixes(config, network, card, ways, whole),
        snapshot_bytes=state / nodes if config.engine.async_checkpoint else 0.0,
        checkpoint_bytes=state,
        disk_bytes=(config.engine.keep + 1) * state + exported, staged_bytes=_staged_bytes(data),
        step_s=step_s, exchange_s=sum(traffic.values()) / (card.link_gb / 2 * 1e9),
        images_per_s=whole.images / step_s, decoding=decoded,
        images=counts, epochs=epochs, steps=steps, hours=hours, gpu_hours=world * hours,
        kg_co2e=card.watts / 1000 * world * hours * pue * kg_per_kwh,
        notes=tuple(notes),
    )  # fmt: skip


def _ways(
    config: Config, network: NetworkShape, card: Gpu, world: int, nodes: int, value: int
) -> Ways:
    from maskedclip.engine.sharding import FOLLOWING_BYTES, TRAINED_BYTES, chosen  # loads torch

    engine = config.engine
    state = TRAINED_BYTES * network.parameters + FOLLOWING_BYTES * network.teacher_parameters
    sharding = chosen(
        engine.sharding, world=world, nodes=nodes, state_bytes=state,
        card_bytes=card.usable_gib * 2**30,
    )  # fmt: skip
    return Ways(
        world, value, config.optim.accumulate, engine.activation_checkpointing, sharding, nodes,
        2 if engine.reduce_dtype == "bf16" else 4, engine.reshard_after_forward,
    )  # fmt: skip


def _on_step(network: NetworkShape, ways: Ways, share: BatchShape, step_s: float) -> list[str]:
    notes, launches = [f"sharding {ways.sharding} (docs/plan.md)"], _LAUNCHES_S[ways.is_whole]
    if network.contrasts:
        notes.append(f"captions of {share.text_tokens} tokens (those of categories have 8 to 23)")
    if ways.nodes > 1:
        notes.append("exchange at the link's rate; between nodes it is slower")
    if step_s < launches:
        notes.append(
            f"{share.images} images a GPU: launching the kernels of a step takes some {launches} s "
            f"(estimated for ViT-L), longer than their work; fewer GPUs are as fast"
        )
    return notes


def _precision(config: Config, card: Gpu, name: str) -> tuple[int, float]:
    """Return (bytes of a value, FLOP a second) of the matrix work."""
    wanted = config.engine.precision
    if wanted == "bf16" and not card.bf16_flops:
        raise ValueError(
            f"engine.precision bf16: {name} does not multiply bf16; use --engine.precision=auto"
        )
    if wanted != "fp32" and card.bf16_flops:
        return 2, card.bf16_flops
    return 4, card.fp32_flops


def _samples(config: Config, images: tuple[int, ...]) -> tuple[tuple[int, int], list[str]]:
    """Return (paired, unpaired) samples, and where the numbers are from."""
    data = config.data
    if images:
        return (images[0], images[1]), ["samples: as given by --images"]
    counts = [_count(paths, data) for paths in data.read]
    paired, unpaired = counts
    wanted = zip(counts, (data.paired_batch, data.unpaired_batch), strict=True)
    if any(count is None and size for count, size in wanted):
        return PAPER_IMAGES, [
            "samples: the paper's, as not all shards are named (or give --images=A,B)"
        ]
    if (data.leave_out_tests or data.leave_out_tests_of) and not _to_be_drawn(data):
        return _taking_part(config)
    said = "samples: of the shards, before those without a caption are left out"
    return (paired or 0, unpaired or 0), [said]


def _staged_bytes(data: DataConfig) -> float:
    """Return the bytes of the tars that are copied to each node, as far as shards are here."""
    if data.stage is None:
        return 0.0
    named = set(chain(*data.read))
    return float(sum(tar.stat().st_size for one in named for tar in Path(one).glob("*.tar")))


def _to_be_drawn(data: DataConfig) -> bool:
    """Return whether a source is not there yet."""
    return not all(Path(directory).exists() for directory in chain(*data.read))


def _taking_part(config: Config) -> tuple[tuple[int, int], list[str]]:
    """Return the samples of a run that leaves test images out, found as the run finds them."""
    from maskedclip.pretrain.trained_images import planned_sources  # reads all metadata

    sources = planned_sources(config)
    counts = [len(sources[name]) if name in sources else 0 for name in ("paired", "unpaired")]
    out, quiet, listed = (
        sum(getattr(source, name) for source in sources.values())
        for name in ("held_out", "left_out", "excluded")
    )
    said = (
        f"samples: without {out:,} test images, {quiet:,} of no caption, {listed:,} of exclude.csv"
    )
    return (counts[0], counts[1]), [said]


def _count(paths: tuple[str, ...], data: DataConfig) -> int | None:
    """Return the samples of shard directories, by their manifests; None where none is named."""
    total = 0
    for path in map(Path, paths):
        manifest = path / "manifest.json"
        if manifest.is_file():
            total += int(json.loads(manifest.read_text())["samples"])
        elif data.draw_phantoms and path.name.startswith("phantom_"):
            total += data.draw_phantoms
        else:
            absent = f"no {manifest.name} here" if path.is_dir() else "no such directory"
            raise ValueError(
                f"{path}: {absent}; make its shards, or give --images=PAIRED,UNPAIRED to plan "
                f"without them"
            )
    return total if paths else None


def _length(config: Config, counts: tuple[int, int]) -> tuple[float, int]:
    """Return (epochs, steps) of the run."""
    from maskedclip.pretrain.sources import length  # imports torch, which --help does without

    sizes = (config.data.paired_batch, config.data.unpaired_batch)
    paired, unpaired = (range(n) if size else None for n, size in zip(counts, sizes, strict=True))
    steps, total = length(config, paired, unpaired)
    return total / steps if steps else 0.0, total


def _largest(network: NetworkShape, share: BatchShape, ways: Ways, room: float) -> tuple[int, int]:
    """Return the most (paired, unpaired) images a GPU, in the run's proportion, that fit."""
    unit = math.gcd(share.paired, share.images - share.paired)
    paired, images = share.paired // unit, share.images // unit

    def fits(times: int) -> bool:
        load = BatchShape(times * images, times * paired, share.text_tokens)
        return footprint.memory(network, load, ways).total <= room

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * paired, low * (images - paired)


def _fixes(
    config: Config, network: NetworkShape, card: Gpu, ways: Ways, whole: BatchShape
) -> tuple[str, ...]:
    """Return the least change of each kind with which the run fits, as flags.

    More GPUs, more micro-batches, recomputing; these two at once where neither is enough.
    """
    from maskedclip.pretrain.methods import method_of  # loads torch

    def fits(changes: Mapping[str, Any], nodes: int = ways.nodes, world: int = ways.world) -> bool:
        try:
            changed = override(config, changes)
            method_of(changed)  # not every method can compute its step in parts
            sizes = changed.data.paired_batch, changed.data.unpaired_batch
            check_divisible(sizes, world, changed.optim.accumulate)
        except ValueError:
            return False
        other = _ways(changed, network, card, world, nodes, ways.value)
        share = BatchShape(whole.images // world, whole.paired // world, whole.text_tokens)
        return footprint.memory(network, share, other).total <= FULL * card.usable_gib * 2**30

    gpus = ways.world // ways.nodes
    more = [(ways.nodes, count) for count in range(gpus + 1, _NODE + 1)]
    more += [(nodes, max(gpus, _NODE)) for nodes in range(ways.nodes + 1, _NODES + 1)]
    machines = (f"--nodes={n} --gpus={g}" for n, g in more if fits({}, n, n * g))
    counts = range(ways.parts + 1, whole.images // ways.world + 1)
    in_parts: list[dict[str, Any]] = [{"optim.accumulate": count} for count in counts]
    recompute: dict[str, Any] = {"engine.activation_checkpointing": True}
    found = [next(filter(fits, changes), None) for changes in (in_parts, [recompute])]
    if not any(found):
        found = [next(filter(fits, (recompute | changes for changes in in_parts)), None)]
    return (*islice(machines, 1), *(_flags(changes) for changes in found if changes))


def _flags(changes: Mapping[str, Any]) -> str:
    return " ".join(f"--{name}={str(value).lower()}" for name, value in changes.items())


def _parameters(network: NetworkShape) -> dict[str, int]:
    counts = {part.name: part.parameters for part in network.students}
    return counts | {"projections": network.projections, "teacher": network.teacher_parameters}


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out tools/plan.py; mistakes end in one line and exit code 2."""
    config, options, *_ = read_config(USAGE, PlanConfig(), "maskedclip_vitl", arguments)
    values = asdict(options)
    as_json = values.pop("json")
    with one_line_errors():
        planned = plan(config, **values)
        sys.stdout.write(json.dumps(asdict(planned)) + "\n" if as_json else report(planned))


def report(plan: Plan) -> str:
    """Return the plan as a table for people, ending in a line break."""
    return "\n".join([*_cost_by_part(plan), "", *_whole_run(plan), "", *_notes(plan)]) + "\n"


def _cost_by_part(plan: Plan) -> list[str]:
    kept = plan.memory.by_part
    lines = [
        f"planned, measured on no GPU: {plan.run} on {plan.nodes} x {plan.gpus} {plan.gpu}, "
        f"{plan.load.paired} + {plan.load.images - plan.load.paired} images a GPU"
        + (f" in {plan.parts} parts" if plan.parts > 1 else ""),
        "",
        "planned      parameters   TFLOP a step   GB kept a GPU",
    ]
    for name in (part for part in _PARTS if plan.parameters[part]):
        work, bytes_kept = plan.flops.get(name), kept.get(name)
        lines.append(
            f"{name:12} {in_count(plan.parameters[name]):>10}   {_or_blank(work, 1e12):>12}"
            f"   {_or_blank(None if name == 'teacher' else bytes_kept, 1e9):>13}"
        )
    trained = sum(plan.parameters.values()) - plan.parameters["teacher"]
    activations = sum(kept.get(name, 0.0) for name in _PARTS if name != "teacher")
    lines.append(
        f"{'all trained':12} {in_count(trained):>10}"
        f"   {in_column(sum(plan.flops.values()) / 1e12):>12}   {in_column(activations / 1e9):>13}"
    )
    lines += ["", f"planned memory of a GPU at its fullest, {plan.memory.when}, in GB"]
    held_as = {"teacher": "teacher (shards)"}
    other = {k: v for k, v in kept.items() if k not in _PARTS or k == "teacher"}
    lines.append(f"  {'activations':28} {in_column(activations / 1e9):>8}")
    lines += [
        f"  {held_as.get(name, name):28} {in_column(size / 1e9):>8}" for name, size in other.items()
    ]
    lines.append(
        f"  {'all':28} {in_column(plan.memory.total / 1e9):>8} of {plan.usable_bytes / 1e9:.1f}"
        f" ({plan.memory.total / plan.usable_bytes:.0%}): {_verdict(plan)}"
    )
    return lines


def _verdict(plan: Plan) -> str:
    if plan.fits:
        return "fits"
    tight = plan.memory.total <= _TIGHT * plan.usable_bytes
    words = f"TIGHT, over {FULL:.0%}: may run out; safer with" if tight else "DOES NOT FIT; use"
    return f"{words} {remedy(plan)}"


def remedy(plan: Plan) -> str:
    """Return what to pass to a run that does not fit: flags that were found to be enough."""
    if plan.fixes:
        return " or ".join(plan.fixes)
    paired, unpaired = (count // plan.parts * plan.parts for count in plan.largest)
    if not paired + unpaired:
        return "a GPU with more memory or a smaller model: not one image a GPU fits"
    world = plan.nodes * plan.gpus
    sizes = f"--data.paired_batch={paired * world} --data.unpaired_batch={unpaired * world}"
    return f"a smaller batch, which makes it another run: {sizes}"


def _whole_run(plan: Plan) -> list[str]:
    world = plan.nodes * plan.gpus
    paired, unpaired = plan.largest
    rows = {
        "largest batch that fits": f"{paired} + {unpaired} images a GPU",
        **{f"{name} a step": f"{in_bytes(size)} a GPU" for name, size in plan.traffic.items()},
        "exchange, nothing hidden": f"{in_time(plan.exchange_s)} a step",
        "done twice to save memory": f"{in_column(plan.flops_again / 1e12)} TFLOP a step",
        "a step": f"{in_time(plan.step_s)} at {plan.mfu:.0%} of the matrix rate",
        "the loader must bring": f"{plan.images_per_s:.0f} images/s, "
        f"{plan.images_per_s / world:.0f} a GPU",
        "cores that decode": _cores(plan.decoding),
        "samples": f"{plan.images[0]:,} paired, {plan.images[1]:,} unpaired",
        "length": f"{plan.steps:,} steps, {plan.epochs:.4g} epochs",
        "time": f"{in_time(3600 * plan.hours)}, {in_column(plan.gpu_hours)} GPU-hours",
        "CO2e": in_weight(1000 * plan.kg_co2e),
        "a checkpoint": in_bytes(plan.checkpoint_bytes),
        "disk, at most": f"{in_bytes(plan.disk_bytes)} with exported weights",
    }
    if plan.staged_bytes:
        rows["disk of each node"] = f"{in_bytes(plan.staged_bytes)} of staged shards"
    if plan.snapshot_bytes:
        rows["host memory while saving"] = f"{in_bytes(plan.snapshot_bytes)} a node"
    return ["planned for the run", *(f"  {name:34} {value}" for name, value in rows.items())]


def _cores(decoding: Decoding) -> str:
    needed = f"{decoding.cores:.1f} a GPU, of {decoding.usable} that can"
    each = f"{decoding.side} px, {decoding.ms:.2g} ms an image"
    return f"{needed} ({each})" + (": TOO FEW, see below" if decoding.starves else "")


def _notes(plan: Plan) -> list[str]:
    return ["assumed", *(f"  {note}" for note in plan.notes)]


def _or_blank(value: float | None, unit: float) -> str:
    return "" if value is None else in_column(value / unit)

"""What a grid would be: its cells and costs, and the scripts that SLURM would be given."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from maskedclip.config import Config, FinetuneConfig, override
from maskedclip.grid.manifest import CODE, FINETUNE, LOGS, PRETRAIN, STAGES, Cell, Grid
from maskedclip.grid.slurm_arrays import (
    CellArray,
    array_limit,
    batches,
    behind,
    missing,
    parameters,
)
from maskedclip.jobs.code_snapshot import on_code, place_of
from maskedclip.metrics.results import in_columns

_MFU = 0.3  # share of a card's matrix rate that a fine-tuning of small batches reaches, a guess
_WORDS = {"pretrain": "pre-trainings", "finetune": "fine-tunings", "report": "reports"}


class Cost(NamedTuple):
    """What a fine-tuning costs: forward passes of one image, and the encoder that takes them."""

    passes: int
    size: str


def plan(grid: Grid, costs: Mapping[str, Cost], card: str) -> str:
    """Return the plan of a grid; nothing is touched, and no cluster is needed.

    Args:
        costs: of each fine-tuning, by name.
        card: the GPU that the cost is counted for.
    """
    cells, active, _ = missing(grid)
    counts = Counter(cell.stage for cell in grid.cells)
    shown = ", ".join(f"{counts[stage]} {_WORDS[stage]}" for stage in STAGES if counts[stage])
    done = len(grid.cells) - len(cells) - len(active)
    lines = [
        f"grid         {grid.directory}",
        f"cells        {shown}",
        f"to do        {len(cells)}; {done} are finished, {len(active)} wait or run",
        f"cluster      {grid.cluster}",
        "",
        *_costs(grid, cells, costs, card),
    ]
    if grid.cluster == "slurm":
        lines += _arrays(grid, cells)
    else:
        lines.append(f"at a time    {grid.parallelism or 1} on this machine, a process each")
        lines += [f"  {cell.stage:9} {cell.name}" for cell in cells]
    return "\n".join(lines) + "\n"


def _arrays(grid: Grid, cells: Sequence[Cell]) -> list[str]:
    """Return each array with its script, ARRAY1 and so on standing for the numbers to come."""
    most, said = array_limit()
    every = batches(cells, most, grid.parallelism)
    lines = [f"arrays       {len(every)}, of at most {most} elements ({said})", ""]
    jobs: dict[str, str] = {}
    for number, batch in enumerate(every, 1):
        name, one = f"ARRAY{number}", len(batch.cells) == 1
        waits = behind(batch, jobs)
        jobs |= {cell.name: name if one else f"{name}_{i}" for i, cell in enumerate(batch.cells)}
        lines += [f"{name}: {_said(batch)}", "", _script(grid, batch._replace(behind=waits)), ""]
    return lines


def _said(batch: CellArray) -> str:
    names, count = [cell.name for cell in batch.cells], len(batch.cells)
    if count == 1:
        return f"{batch.stage}, one job: {names[0]}"
    return f"{batch.stage}, array of {count}: {names[0]} to {names[-1]}"


def _script(grid: Grid, batch: CellArray) -> str:
    from maskedclip.jobs.submit import script

    wanted = parameters(grid, batch, on_code(place_of(grid.directory / CODE)))
    return script(wanted, (grid.directory / LOGS).resolve(), len(batch.cells))


def _costs(grid: Grid, cells: Sequence[Cell], costs: Mapping[str, Cost], card: str) -> list[str]:
    """Return a line a pre-training and one for all fine-tunings, and their sum."""
    launch = grid.launch[PRETRAIN]
    if not launch["gpus"]:
        return []
    rows: list[tuple[str, float, float]] = []
    notes: list[str] = []
    for cell in cells:
        if cell.stage != PRETRAIN:
            continue
        try:
            rows.append((cell.name, *_pretraining(cell, launch["nodes"], launch["gpus"], card)))
        except (ValueError, RuntimeError) as error:
            notes.append(f"{cell.name}: cost not known: {' '.join(str(error).split())}")
    tuned = [cell for cell in cells if cell.stage == FINETUNE]
    if tuned:
        each = [_finetuning(cell, costs[cell.name], card) for cell in tuned if cell.name in costs]
        sums = [sum(column) for column in zip(*each, strict=True)] or [0.0, 0.0]
        rows.append((f"{len(tuned)} fine-tunings", sums[0], sums[1]))
        unknown = sum(not costs[cell.name].passes for cell in tuned if cell.name in costs)
        notes += [f"{unknown} fine-tunings have no data yet and count as nothing"] * bool(unknown)
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    table = in_columns(
        [(f"cost on {card}", "GPU-hours", "disk, GB"),
         *((name, f"{hours:.1f}", f"{gb:.1f}") for name, hours, gb in rows)]
    )  # fmt: skip
    notes.append(f"a fine-tuning at {_MFU:.0%} of the matrix rate, forward passes counted")
    return [*table.splitlines(), *notes, ""]


def _pretraining(cell: Cell, nodes: int, gpus: int, card: str) -> tuple[float, float]:
    """Return (GPU-hours, GB on the disk at most) of a pre-training."""
    from maskedclip.plan.cost import plan as cost

    found = cost(override(Config(), cell.config), nodes=nodes, gpus=gpus, gpu=card)
    return found.gpu_hours, found.disk_bytes / 1e9


def _finetuning(cell: Cell, cost: Cost, card: str) -> tuple[float, float]:
    """Return (GPU-hours, GB on the disk in the end) of a fine-tuning."""
    from maskedclip.engine.gpu_specs import find_gpu
    from maskedclip.models.maskedclip import SIZES

    kind, gpu = SIZES[cost.size], find_gpu(card)
    tokens = (override(FinetuneConfig(), cell.config).image_size // 16) ** 2 + 1
    # a product of n x k and k x m counts 2nkm: four maps of attention, two of the MLP, and mixing
    block = tokens * (24 * kind.width**2 + 4 * tokens * kind.width)
    passes = cost.passes * kind.depth * block
    values = kind.depth * 12 * kind.width**2
    return passes / (_MFU * (gpu.bf16_flops or gpu.fp32_flops)) / 3600, 4 * values / 1e9

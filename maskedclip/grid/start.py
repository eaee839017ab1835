"""A grid from the command line to its jobs: its cells, written down and started, or its plan."""

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from maskedclip.config import Config, FinetuneConfig, LaunchConfig, check_divisible, flat, override
from maskedclip.data.paper_tasks import chosen
from maskedclip.engine.whole_file import refuse_unwritable
from maskedclip.finetune.command import check_dataset
from maskedclip.finetune.run_directory import architecture_of
from maskedclip.grid.ablation_command import AblationConfig, AblationStudy
from maskedclip.grid.cells import (
    evaluations,
    finetunings,
    grid_of,
    not_measured,
    pretrainings,
    run_directory,
)
from maskedclip.grid.local_pool import run
from maskedclip.grid.manifest import (
    CODE,
    EVALUATE,
    FINETUNE,
    LOGS,
    MANIFEST,
    PRETRAIN,
    REPORT,
    STAGES,
    Cell,
    Grid,
    finished,
    read,
    run_of,
    write,
)
from maskedclip.grid.slurm_arrays import (
    CellArray,
    Submitted,
    array_limit,
    arrays_of,
    held,
    jobs_before,
    missing,
    no_room,
    parameters,
    submit,
)
from maskedclip.grid.study import (
    OpenedDatasets,
    Tuned,
    check_names,
    check_readable,
    check_tunable,
    refuse_failing,
    tuned_of,
)
from maskedclip.grid.study import run as run_study
from maskedclip.grid.study_command import Study
from maskedclip.grid.sweep_command import FINETUNE_PROTOCOL, Sweep, SweepConfig
from maskedclip.jobs.code_snapshot import on_code, snapshot_path
from maskedclip.jobs.job import interpreter
from maskedclip.jobs.submit import cluster_of, script
from maskedclip.metrics.results import in_columns
from maskedclip.next_step import curves_commands, next_lines
from maskedclip.pretrain.measured_after import check_labels, refuse_unsuited
from maskedclip.pretrain.preflight import pretraining_on_tests
from maskedclip.shards.dataset_names import refuse_one_name
from maskedclip.shards.image_folders import as_shards, tree_of

logger = logging.getLogger(__name__)
GRIDS, RUNS = "grids", "runs"
_HOURS_A_JOB = 0.5  # of fine-tunings that share a job
_MOST_A_JOB = 32
_MFU = 0.3  # share of a card's matrix rate that a fine-tuning of small batches reaches, a guess
_WORDS = {
    "pretrain": "pre-trainings", "evaluate": "evaluations", "finetune": "fine-tunings",
    "report": "reports",
}  # fmt: skip


class Cost(NamedTuple):
    """What a fine-tuning costs: forward passes of one image, and the encoder that takes them."""

    passes: int
    width: int
    depth: int
    patch_size: int
    unknown: str = ""  # why it is not known


def start_ablation(asked: AblationStudy) -> int:
    """Pre-train, fine-tune and report, or say what would be done; return the exit code.

    Raises ValueError for data that is not there, a batch that the ranks cannot share, or a grid of
    that name with other cells; RuntimeError where SLURM refuses a job.
    """
    config = asked.config
    directory = _directory(config)
    pretrained = pretrainings(_checked_systems(asked), directory / RUNS)
    measured = [(cell, seed) for seed in range(config.seeds) for cell in pretrained]
    grid, costs = _grid(asked, pretrained, measured, [])
    return start(grid, costs, asked.launch.card)


def start_sweep(asked: Sweep) -> int:
    """Pre-train every point with every seed, measure each by every protocol, and report.

    Raises as `start_ablation` does.
    """
    grid, costs = sweep_grid(asked)
    return start(grid, costs, asked.launch.card)


def sweep_grid(asked: Sweep) -> tuple[Grid, dict[str, Cost] | None]:
    """Return the grid of a sweep, and what its fine-tunings cost where it is only planned.

    A point's runs are OUT/grids/NAME/runs/seedN/POINT: one row of the tables has all of its seeds.
    """
    config, directory = asked.config, _directory(asked.config)
    asked = asked._replace(systems=_named_as_before(asked, directory))
    pretrained: list[Cell] = []
    for number in range(config.seeds):
        own = {
            name: override(system, {"seed": system.seed + number})
            for name, system in _checked_systems(asked).items()
        }
        pretrained += [
            cell._replace(name=f"{cell.name}-seed{cell.config['seed']}")
            for cell in _of_seed(own, directory / RUNS)
        ]
    measured = [(cell, cell.config["seed"]) for cell in pretrained]
    evaluated = evaluations(asked.evaluation, pretrained) if _is_evaluated(asked) else []
    tuned = measured if FINETUNE_PROTOCOL in config.protocols else []
    return _grid(asked, pretrained, tuned, evaluated)


def _named_as_before(asked: Sweep, directory: Path) -> dict[str, Config]:
    """Return the points, one that the grid has with its values spelt otherwise under that name."""
    if not (directory / MANIFEST).is_file():
        return asked.systems

    def point(cell: Cell) -> tuple[object, ...]:
        config = override(Config(), cell.config)
        values = flat(asdict(config))
        labels = (part.partition("=")[0] for part in config.name.split(","))
        return *labels, *(values[name] for name in asked.swept)

    before = [cell for cell in read(directory).cells if cell.stage == PRETRAIN]
    name_of = {point(cell): cell.config["name"] for cell in before}
    names = {*name_of.values()}
    return {
        name if name in names else name_of.get(point(cell), name): asked.systems[name]
        for cell in pretrainings(asked.systems, directory / RUNS)
        for name in [cell.name]
    }


def _of_seed(systems: Mapping[str, Config], out: Path) -> list[Cell]:
    seed = next(iter(systems.values())).seed
    return pretrainings(systems, out / f"seed{seed}")


def _is_evaluated(asked: Sweep) -> bool:
    return bool(asked.evaluation.protocols or asked.evaluation.shots)


def _directory(config: AblationConfig | SweepConfig) -> Path:
    return (Path(config.out) / GRIDS / config.name).absolute()


def _checked_systems(asked: AblationStudy | Sweep) -> dict[str, Config]:
    """Return the systems as they are pre-trained; ValueError where ranks cannot share a batch."""
    _, launch = where(asked.launch)
    for system in asked.systems.values():
        _check_share(system, launch)
    return _leaving_out_tests(asked)


def _grid(
    asked: AblationStudy | Sweep,
    pretrained: Sequence[Cell],
    tunings: Sequence[tuple[Cell, int]],
    evaluated: Sequence[Cell],
) -> tuple[Grid, dict[str, Cost] | None]:
    """Return the grid of pre-trainings, what measures them and the report; for a plan the costs.

    Args:
        tunings: pre-trainings, and the seeds of the fine-tunings of each.
    """
    config = asked.config
    cluster, launch = where(asked.launch)
    systems = {cell.config["name"]: override(Config(), cell.config) for cell in pretrained}
    for line in dict.fromkeys(map(pretraining_on_tests, systems.values())):
        if line:
            logger.warning("%s", line)
    _prepare_data(asked, pretrained, _directory(config), launch.dry_run)
    tuned, missing = _finetunings(asked, tunings)
    for line in missing:
        logger.warning("%s", line)
    named = [replace(one.config, name=one.name) for one in tuned]
    cells = [*pretrained, *evaluated, *finetunings(named, pretrained)]
    costs = {one.name: _planned_cost(one, systems) for one in tuned}
    grid = grid_of(
        _directory(config), cells, asdict(launch), config.finetune_hours, cluster,
        config.parallelism, config.pack or _usual_pack(cells, costs, launch), asked.command,
    )  # fmt: skip
    return grid, costs if launch.dry_run else None


def _leaving_out_tests(asked: AblationStudy | Sweep) -> dict[str, Config]:
    """Return the systems; those that leave test images out, also those of the grid's datasets."""
    config = asked.config
    if not any(system.data.leave_out_tests for system in asked.systems.values()):
        return asked.systems
    datasets, _ = chosen(config.datasets, config.task, Path(config.shards))
    tested = tuple(str(directory) for directory, _ in datasets)
    return {
        name: override(system, {"data.leave_out_tests_of": system.data.leave_out_tests_of + tested})
        if system.data.leave_out_tests
        else system
        for name, system in asked.systems.items()
    }


def start_study(study: Study) -> int:
    """Fine-tune as an array, or several at a time, or one after another; return the exit code.

    Raises as `start_ablation` does.
    """
    config, launch = study.config, study.launch
    if not config.dry_run:
        refuse_unwritable("out", Path(config.out))
    cluster = cluster_of(launch)
    if cluster != "slurm" and (config.parallelism or 1) == 1 and not config.name:
        return run_study(study)
    launch = replace(launch, gpus=1) if launch.gpus is None and cluster == "slurm" else launch
    check_readable(study.cells)
    opened: OpenedDatasets = {}
    tuned = [tuned_of(cell, opened, build=not config.dry_run) for cell in study.cells]
    check_names(tuned)
    if cluster == "slurm" and not config.dry_run:
        refuse_failing(tuned)
    for line in study.missing:
        logger.warning("%s", line)
    cells = finetunings([replace(one.config, name=one.name) for one in tuned], [])
    directory = (Path(config.out) / GRIDS / (config.name or "finetune")).absolute()
    costs = {one.name: _cost_of(one) for one in tuned} if cluster == "slurm" else {}
    pack = config.pack or _usual_pack(cells, costs, launch)
    grid = grid_of(
        directory, cells, asdict(launch), launch.hours, cluster, config.parallelism, pack
    )
    return start(grid, costs if config.dry_run else None, launch.card)


def _usual_pack(cells: Sequence[Cell], costs: Mapping[str, Cost], launch: LaunchConfig) -> int:
    """Return how many fine-tunings a job of SLURM holds: those of half an hour, as planned.

    One where no cost is known, as without a GPU.
    """
    known = [
        _finetuning_cost(cell, costs[cell.name], launch.card)[0]
        for cell in cells
        if cell.name in costs and not costs[cell.name].unknown
    ]
    if not known or not launch.gpus:
        return 1
    usual = sum(known) / len(known)
    return max(1, min(_MOST_A_JOB, int(_HOURS_A_JOB / max(usual, 1e-9))))


def _cost_of(tuned: Tuned) -> Cost:
    """Return what a fine-tuning of weights that are there costs."""
    architecture = architecture_of(tuned.config)
    if architecture["family"] == "resnet50":
        return Cost(tuned.passes, 0, 0, 1, "operations of a ResNet-50 are not counted")
    width, depth = architecture["width"], architecture["depth"]
    return Cost(tuned.passes, width, depth, architecture["patch_size"], tuned.unknown)


def _planned_cost(tuned: Tuned, systems: Mapping[str, Config]) -> Cost:
    """Return what a fine-tuning of a system's weights costs, which may be to come."""
    from maskedclip.models.maskedclip import SIZES

    model = systems[Path(tuned.config.weights).name].model
    kind = SIZES[model.size]
    return Cost(tuned.passes, kind.width, kind.depth, model.patch_size, tuned.unknown)


def where(launch: LaunchConfig) -> tuple[str, LaunchConfig]:
    """Return slurm or local, and the launch with a GPU on SLURM where no number is given.

    A plan for no cluster in particular is one for SLURM.
    """
    planned = launch.dry_run and launch.cluster == "auto"
    cluster = "slurm" if planned else cluster_of(launch)
    if cluster == "debug":
        raise ValueError("--cluster debug: a grid runs in processes; use --cluster local")
    if cluster == "slurm" and launch.gpus is None:
        launch = replace(launch, gpus=1)
    return cluster, launch


def _check_share(config: Config, launch: LaunchConfig) -> None:
    ranks = launch.gpus or (launch.cpu_ranks if launch.gpus == 0 else 1)
    sizes = config.data.paired_batch, config.data.unpaired_batch
    try:
        check_divisible(sizes, ranks * launch.nodes, config.optim.accumulate)
    except ValueError as error:
        raise ValueError(f"{config.name}: {error}") from None


def _prepare_data(
    asked: AblationStudy | Sweep, pretrained: Sequence[Cell], directory: Path, dry_run: bool
) -> None:
    """Check what the pre-trainings read, and draw phantoms where some are to be drawn.

    A dry run draws none.
    """
    from maskedclip.pretrain.preflight import check, prepare

    drawn = tuple(name for name in asked.config.datasets if Path(name).name.startswith("phantom"))
    for cell in pretrained:
        grid = Grid(directory, (cell,), {}, "")
        if finished(grid, cell):
            continue
        config = override(Config(), cell.config)
        draws = drawn if config.data.draw_phantoms else ()
        (check if dry_run else prepare)(override(config, {"after.datasets": draws}))


def _finetunings(
    asked: AblationStudy | Sweep, measured: Sequence[tuple[Cell, int]]
) -> tuple[list[Tuned], list[str]]:
    """Return the fine-tunings of pre-trainings with these seeds, and a line a missing dataset."""
    config, launch, systems, recipe = asked[:4]
    datasets, missing = chosen(config.datasets, config.task, Path(config.shards))
    for directory, task in datasets:
        planned = launch.dry_run and not directory.exists()
        if not (planned and any(system.data.draw_phantoms for system in systems.values())):
            check_dataset(directory, task)
    refuse_one_name("datasets", [directory for directory, _ in datasets])
    opened: OpenedDatasets = {}
    for directory, task in datasets:
        if isinstance(asked, Sweep) and _is_evaluated(asked):
            own = asked.evaluation
            refuse_unsuited("protocols", own.protocols, directory, task, own.shots)
        if launch.dry_run and (not directory.exists() or tree_of(directory)):
            continue  # it is drawn, or made into shards, when the grid starts
        if measured:
            patches = {cell.config["model.patch_size"] for cell, _ in measured}
            check_tunable(replace(recipe, dataset=str(directory), task=task), patches, opened)
        else:
            check_labels(as_shards(directory), task)
    tuned = [
        tuned_of(
            replace(
                recipe, weights=run_directory(cell), dataset=str(directory), task=task,
                fraction=fraction, seed=seed, out=cell.config["out"],
            ),
            opened,
            build=not launch.dry_run,
        )
        for cell, seed in measured
        for directory, task in datasets
        for fraction in config.fractions
    ]  # fmt: skip
    if tuned:
        check_names(tuned)
    return tuned, missing


def start(grid: Grid, costs: Mapping[str, Cost] | None = None, card: str = "") -> int:
    """Write the grid down and start what is neither finished nor under way; return the exit code.

    costs: of the fine-tunings, where the grid shall only be planned; card is the GPU's name.
    """
    for line in not_measured(grid):
        logger.warning("%s", line)
    if costs is not None:
        sys.stdout.write(plan(grid, costs, card))
        return 0
    with held(grid):  # or another process would run cells that are not as it knows them
        write(grid)
    if grid.cluster == "slurm":
        _say_submitted(grid, submit(grid))
        return 0
    code = run(grid)
    _say_next(grid)
    return code


def _say_submitted(grid: Grid, submitted: Submitted) -> None:
    path, first = _shown(grid.directory), quote(grid.cells[0].name)
    (grid.directory / RUNS).mkdir(exist_ok=True)  # for who pastes the line below before a cell runs
    curves = "\n             ".join(curves_commands(path / RUNS, on_cluster=True))
    sys.stdout.write(
        f"submitted {len(submitted.done)} of {len(grid.cells)} cells: {path}\n"
        f"{no_room(submitted, str(path))}"
        f"  state      python -m maskedclip.slurm status {quote(str(path))}\n"
        f"  why        python -m maskedclip.slurm status {quote(str(path))} --why={first}\n"
        f"  curves     {curves}\n"
    )


def _say_next(grid: Grid) -> None:
    path = _shown(grid.directory)
    for cell in grid.cells:
        if cell.stage == REPORT and finished(grid, cell):
            sys.stdout.write(f"{_shown(run_of(grid, cell)) / 'index.html'}\n")
    sys.stdout.write(next_lines(f"python -m maskedclip.slurm status {quote(str(path))}"))


def _shown(path: Path) -> Path:
    """Return a path as it is written from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


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
    arrays = arrays_of(cells, most, grid.parallelism, grid.pack)
    lines = [f"arrays       {len(arrays)}, of at most {most} elements ({said})", ""]
    jobs: dict[str, str] = {}
    tails: dict[tuple[str, int], str] = {}
    for number, array in enumerate(arrays, 1):
        name, one = f"ARRAY{number}", len(array.elements) == 1
        tail = tails.get((array.stage, array.lane)) if grid.parallelism else None
        waits = tuple(filter(None, [*jobs_before(array, jobs), tail]))
        tails[array.stage, array.lane] = name
        jobs |= {
            cell.name: name if one else f"{name}_{i}"
            for i, element in enumerate(array.elements)
            for cell in element
        }
        lines += [f"{name}: {_title(array)}", "", _script(grid, array._replace(behind=waits)), ""]
    return lines


def _title(array: CellArray) -> str:
    names, count = [cell.name for cell in array.cells], len(array.elements)
    if len(names) == 1:
        return f"{array.stage}, one job: {names[0]}"
    several = "" if len(names) == count else f" of {len(names)} cells"
    jobs = "one job" if count == 1 else f"array of {count}"
    return f"{array.stage}, {jobs}{several}: {names[0]} to {names[-1]}"


def _script(grid: Grid, array: CellArray) -> str:
    wanted = parameters(grid, array, on_code(snapshot_path(grid.directory / CODE)))
    python = interpreter(override(LaunchConfig(), grid.launch[array.stage]).python)
    return script(wanted, (grid.directory / LOGS).resolve(), python, len(array.elements))


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
            rows.append(
                (cell.name, *_pretraining_cost(cell, launch["nodes"], launch["gpus"], card))
            )
        except (ValueError, RuntimeError) as error:
            notes.append(f"not known: {cell.name}: {' '.join(str(error).split())}")
    tuned = [cell for cell in cells if cell.stage == FINETUNE]
    if tuned:
        row, unknown = _finetuning_costs(tuned, costs, card)
        rows += row
        notes += unknown
    total = "all that is known" if notes else "all"
    rows.append((total, sum(row[1] for row in rows), sum(row[2] for row in rows)))
    table = in_columns(
        [(f"cost on {card}", "GPU-hours", "disk, GB"),
         *((name, _short(hours), _short(gb)) for name, hours, gb in rows)]
    )  # fmt: skip
    if tuned:
        notes.append(f"a fine-tuning at {_MFU:.0%} of the matrix rate, forward passes counted")
    if any(cell.stage == EVALUATE for cell in cells):
        notes.append("not counted: evaluations, a pass of the labelled images each")
    return [*table.splitlines(), *notes, ""]


def _short(value: float) -> str:
    """Return a cost to a tenth; what is less and not nothing is no 0.0."""
    return "< 0.1" if 0 < value < 0.05 else f"{value:.1f}"


def _finetuning_costs(
    tuned: Sequence[Cell], costs: Mapping[str, Cost], card: str
) -> tuple[list[tuple[str, float, float]], list[str]]:
    """Return the row of the fine-tunings whose cost is known, if any, and why others' are not."""
    known: list[tuple[float, float]] = []
    unknown: Counter[str] = Counter()
    for cell in tuned:
        cost = costs.get(cell.name)
        if cost is None:
            unknown["asked for by an earlier command"] += 1
        elif cost.unknown:
            unknown[cost.unknown] += 1
        else:
            known.append(_finetuning_cost(cell, cost, card))
    notes = [f"not known: {count} fine-tunings: {why}" for why, count in unknown.items()]
    if not known:
        return [], notes
    of = f"{len(known)} of {len(tuned)}" if unknown else f"{len(tuned)}"
    hours, gb = (sum(column) for column in zip(*known, strict=True))
    return [(f"{of} fine-tunings", hours, gb)], notes


def _pretraining_cost(cell: Cell, nodes: int, gpus: int, card: str) -> tuple[float, float]:
    """Return (GPU-hours, GB on the disk at most) of a pre-training."""
    from maskedclip.plan.cost import plan as cost

    costs = cost(override(Config(), cell.config), nodes=nodes, gpus=gpus, gpu=card)
    return costs.gpu_hours, costs.disk_bytes / 1e9


def _finetuning_cost(cell: Cell, cost: Cost, card: str) -> tuple[float, float]:
    """Return (GPU-hours, GB on the disk in the end) of a fine-tuning."""
    from maskedclip.engine.gpu_specs import find_gpu

    gpu, size = find_gpu(card), override(FinetuneConfig(), cell.config).image_size
    tokens = (size // cost.patch_size) ** 2 + 1
    # a product of n x k and k x m counts 2nkm: four maps of attention, two of the MLP, and mixing
    block = tokens * (24 * cost.width**2 + 4 * tokens * cost.width)
    passes = cost.passes * cost.depth * block
    values = cost.depth * 12 * cost.width**2
    return passes / (_MFU * (gpu.bf16_flops or gpu.fp32_flops)) / 3600, 4 * values / 1e9

"""A grid from what is asked for to its jobs: its cells found, written down, and started."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from maskedclip.config import Config, FinetuneConfig, LaunchConfig, check_shares, override
from maskedclip.data.paper_tasks import chosen
from maskedclip.finetune.command import check_dataset
from maskedclip.grid.ablation_command import AblationStudy
from maskedclip.grid.cells import finetunings, grid_of, pretrainings, run_directory
from maskedclip.grid.dry_run import Cost, plan
from maskedclip.grid.local_pool import run
from maskedclip.grid.manifest import REPORT, Cell, Grid, finished, run_of, write
from maskedclip.grid.slurm_arrays import submit
from maskedclip.grid.study import Opened, Tuned, check_names, tuned_of
from maskedclip.grid.study import run as run_study
from maskedclip.grid.study_command import Study
from maskedclip.jobs.submit import cluster_of

logger = logging.getLogger(__name__)
GRIDS, RUNS = "grids", "runs"


def start_ablation(asked: AblationStudy) -> int:
    """Pre-train, fine-tune and report, or say what would be done; return the exit code.

    Raises ValueError for data that is not there, a batch that the ranks cannot share, or a grid of
    that name with other cells; RuntimeError where SLURM refuses a job.
    """
    config, launch, systems, _ = asked
    directory = (Path(config.out) / GRIDS / config.name).absolute()
    cluster, launch = where(launch)
    for each in systems.values():
        _check_share(each, launch)
    pretrained = pretrainings(systems, directory / RUNS)
    if not launch.dry_run:
        _prepare(asked, pretrained, directory)
    tuned, missing = _finetunings(asked, pretrained)
    for line in missing:
        logger.warning("%s", line)
    named = [replace(each.config, name=each.name) for each in tuned]
    cells = [*pretrained, *finetunings(named, pretrained)]
    grid = grid_of(
        directory, cells, asdict(launch), config.finetune_hours, cluster, config.parallelism
    )
    costs = {each.name: Cost(each.passes, _size(each.config, systems)) for each in tuned}
    return start(grid, costs if launch.dry_run else None, launch.card)


def start_study(study: Study) -> int:
    """Fine-tune as an array, or several at a time, or one after another; return the exit code.

    Raises as `start_ablation` does.
    """
    config, launch = study.config, study.launch
    cluster = cluster_of(launch)
    if cluster != "slurm" and (config.parallelism or 1) == 1:
        return run_study(study)
    launch = replace(launch, gpus=1) if launch.gpus is None and cluster == "slurm" else launch
    opened: Opened = {}
    tuned = [tuned_of(each, opened, build=not config.dry_run) for each in study.cells]
    check_names(tuned)
    for line in study.missing:
        logger.warning("%s", line)
    cells = finetunings([replace(each.config, name=each.name) for each in tuned], [])
    directory = (Path(config.out) / GRIDS / config.name).absolute()
    grid = grid_of(directory, cells, asdict(launch), launch.hours, cluster, config.parallelism)
    costs = {each.name: Cost(each.passes, _size_of(each.config)) for each in tuned}
    return start(grid, costs if config.dry_run else None, launch.card)


def _size_of(config: FinetuneConfig) -> str:
    """Return the size of an encoder that is there; large where its file does not say."""
    from maskedclip.inference import read_header
    from maskedclip.models.pretrained import ENCODER, RANDOM

    if config.weights == RANDOM:
        return config.size
    weights = Path(config.weights)
    shape, _ = read_header(weights / ENCODER if weights.is_dir() else weights)
    return str(shape.get("size", "large"))


def _size(config: FinetuneConfig, systems: Mapping[str, Config]) -> str:
    return systems[Path(config.weights).name].model.size


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
        check_shares(sizes, ranks * launch.nodes, config.optim.accumulate)
    except ValueError as error:
        raise ValueError(f"{config.name}: {error}") from None


def _prepare(asked: AblationStudy, pretrained: Sequence[Cell], directory: Path) -> None:
    """Check what the pre-trainings read, and draw phantoms where some are to be drawn."""
    from maskedclip.pretrain.preflight import prepare

    drawn = tuple(name for name in asked.config.datasets if Path(name).name.startswith("phantom"))
    for cell in pretrained:
        grid = Grid(directory, (cell,), {}, "")
        if finished(grid, cell):
            continue
        config = override(Config(), cell.config)
        draws = drawn if config.data.draw_phantoms else ()
        prepare(override(config, {"after.datasets": draws}))


def _finetunings(asked: AblationStudy, pretrained: Sequence[Cell]) -> tuple[list[Tuned], list[str]]:
    """Return the fine-tunings, the first seed's before the next, and a line a missing dataset."""
    config, launch, systems, recipe = asked
    datasets, missing = chosen(config.datasets, config.task, Path(config.shards))
    for directory, task in datasets:
        planned = launch.dry_run and not directory.exists()
        if not (planned and any(each.data.draw_phantoms for each in systems.values())):
            check_dataset(directory, task)
    opened: Opened = {}
    tuned = [
        tuned_of(
            replace(
                recipe, weights=run_directory(cell), dataset=str(directory), task=task,
                fraction=fraction, seed=seed, out=cell.config["out"],
            ),
            opened,
            build=not launch.dry_run,
        )
        for seed in range(config.seeds)
        for cell in pretrained
        for directory, task in datasets
        for fraction in config.fractions
    ]  # fmt: skip
    check_names(tuned)
    return tuned, missing


def start(grid: Grid, costs: Mapping[str, Cost] | None = None, card: str = "") -> int:
    """Write the grid down and start what is neither finished nor under way; return the exit code.

    costs: of the fine-tunings, where the grid shall only be planned; card is the GPU's name.
    """
    if costs is not None:
        sys.stdout.write(plan(grid, costs, card))
        return 0
    write(grid)
    if grid.cluster == "slurm":
        _say_submitted(grid, len(submit(grid)))
        return 0
    code = run(grid)
    _say_next(grid)
    return code


def _say_submitted(grid: Grid, count: int) -> None:
    place = _shown(grid.directory)
    sys.stdout.write(
        f"submitted {count} of {len(grid.cells)} cells: {place}\n"
        f"  state      python -m maskedclip.slurm status {place}\n"
        f"  why        python -m maskedclip.slurm status {place} --why CELL\n"
        f"  curves     tensorboard --logdir {place / RUNS}\n"
    )


def _say_next(grid: Grid) -> None:
    place = _shown(grid.directory)
    for cell in grid.cells:
        if cell.stage == REPORT and finished(grid, cell):
            sys.stdout.write(f"{_shown(run_of(grid, cell)) / 'index.html'}\n")
    sys.stdout.write(f"next: python -m maskedclip.slurm status {place}\n")


def _shown(path: Path) -> Path:
    """Return a path as it is written from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path

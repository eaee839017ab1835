"""What a grid is made of: pre-trainings, their evaluations and fine-tunings, and the report.

Paths in a manifest are absolute: jobs start elsewhere, and later.
"""

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskedclip.config import Config, FinetuneConfig, flat, override
from maskedclip.finetune.command import EvaluateConfig
from maskedclip.grid.manifest import (
    EVALUATE,
    FINETUNE,
    MANIFEST,
    PRETRAIN,
    REPORT,
    Cell,
    Grid,
    learnt,
    read,
    run_of,
)

TABLES = {
    "1": ("mae", "clip", "dinov2", "maskedclip"),  # those of Table 1 that are pre-trained here
    "2": ("mae_clip", "mae_clip_bridge", "maskedclip"),
}
REPORTED = "report"  # the cell, and its folder in the grid
_SHOT = "-shot"
_MEASURES = ("protocols", "shots")  # flags of submit_sweep
_NOWHERE = Grid(Path(), (), {}, "")  # the paths of new cells are absolute
_PATHS = ("data.paired", "data.unpaired", "data.leave_out_tests_of")
# of a fine-tuning: paths, whose content counts, and speed
_FREE = ("out", "threads", "compile", "dataset", "weights", "split")


def system(recipe: Config, base: Config | None, changes: Mapping[str, Any]) -> Config:
    """Return a system's recipe as `base` and `changes` have it; what it does without stays away.

    That is a number that is 0 in the recipe, or a switch that is off, and not in the paper's run.

    Args:
        base: a recipe, such as demo, whose differences from the paper's run are taken over.
        changes: values of fields, which have the last word over both.
    """
    usual, own = flat(asdict(Config())), flat(asdict(recipe))
    wanted: dict[str, Any] = {}
    if base is not None:
        wanted = {k: v for k, v in flat(asdict(base)).items() if v != usual[k]}
    wanted |= changes
    for name in ("name", "out", "after.datasets", "after.task"):
        wanted.pop(name, None)
    without = [name for name in wanted if _off(own[name]) and not _off(usual[name])]
    return override(recipe, {k: v for k, v in wanted.items() if k not in without})


def _off(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def pretrainings(systems: Mapping[str, Config], out: Path) -> list[Cell]:
    """Return a cell for each system, to run in a directory of its name under `out`."""
    cells = []
    for name, config in systems.items():
        own = flat(asdict(config))
        paths: dict[str, Any] = {name: _absolute(own[name]) for name in _PATHS}
        paths["init_from"] = _weights_path(config.init_from)
        measured: dict[str, Any] = {"after.datasets": ()}  # its fine-tunings say more
        config = override(config, {**paths, **measured, "name": name, "out": str(out.absolute())})
        cells.append(Cell(name, PRETRAIN, flat(asdict(config)), ()))
    return cells


def _absolute(paths: Iterable[str]) -> tuple[str, ...]:
    from maskedclip.data.paper_tasks import PAPER_WORD  # NumPy, which --help does without

    return tuple(p if p == PAPER_WORD else str(Path(p).absolute()) for p in paths)


def _weights_path(weights: str, to_come: Collection[str] = ()) -> str:
    """Return the absolute path of weights; a name, such as random or one of a hub, stays itself."""
    path = str(Path(weights).absolute()) if weights else ""
    return path if path in to_come or (weights and Path(weights).exists()) else weights


def finetunings(configs: Sequence[FinetuneConfig], pretrained: Sequence[Cell]) -> list[Cell]:
    """Return a cell for each fine-tuning, whose names and tasks are resolved.

    It needs the pre-training in whose directory its weights are, if one of `pretrained` is that.
    """
    by_path = {run_directory(cell): cell.name for cell in pretrained}
    cells = []
    for config in configs:
        paths = {
            name: str(Path(getattr(config, name)).absolute())
            for name in ("dataset", "out", "split")
            if getattr(config, name)
        }
        config = override(config, paths | {"weights": _weights_path(config.weights, by_path)})
        need = by_path.get(config.weights)
        cells.append(Cell(config.name, FINETUNE, flat(asdict(config)), (need,) if need else ()))
    return cells


def evaluations(config: EvaluateConfig, pretrained: Sequence[Cell]) -> list[Cell]:
    """Return a cell for each pre-training, whose results go into its directory, with its seed."""
    cells = []
    for cell in pretrained:
        run, own = run_directory(cell), asdict(config)
        own |= {"weights": run, "out": run, "seed": cell.config["seed"]}
        own |= {
            "datasets": _absolute(config.datasets),
            "shards": str(Path(config.shards).absolute()),
        }
        if not _reads_text(cell):
            own["protocols"] = tuple(name for name in config.protocols if name != "zeroshot")
            if not own["protocols"] and not config.shots:  # evaluate's own choice was not asked for
                continue
        cells.append(Cell(f"{cell.name}-{EVALUATE}", EVALUATE, own, (cell.name,)))
    return cells


def _reads_text(pretrained: Cell) -> bool:
    return pretrained.config["method"] == "maskedclip" and pretrained.config["loss.clip"] > 0


def run_directory(cell: Cell) -> str:
    """Return where a pre-training or a fine-tuning runs."""
    return str(Path(cell.config["out"]) / cell.config["name"])


def reporting(cells: Sequence[Cell], directory: Path) -> list[Cell]:
    """Return a cell for each protocol that reports on all runs measured by it.

    They come behind what is measured and need none of it. The first is `report`: of fine-tuning,
    where anything is fine-tuned; that of another protocol is `report-PROTOCOL`.

    Args:
        directory: of the grid.
    """
    measured: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.stage == FINETUNE:
            measured.setdefault("", []).append(cell)
    for cell in cells:
        if cell.stage == EVALUATE:
            for protocol in _protocols(cell):
                measured.setdefault(protocol, []).append(cell)
    reports: list[Cell] = []
    for protocol, mine in measured.items():
        name = f"{REPORTED}-{protocol}" if reports else REPORTED
        out = str((directory / name).absolute())
        config: dict[str, Any] = {
            "runs": [str(run_of(_NOWHERE, cell)) for cell in mine],
            "out": out,
        }
        config |= {"protocol": protocol} if protocol else {}
        reports.append(Cell(name, REPORT, config, tuple(cell.name for cell in mine)))
    return reports


def not_measured(grid: Grid, protocol: str = "") -> list[str]:
    """Return in lines which pre-trainings a report lacks, as no cell measures them, and the remedy.

    So it is with points of an earlier command where a later one adds a protocol, and other points.

    Args:
        protocol: of the report, as of `evaluate` or finetune; empty: of every report.
    """
    by_run = _measures(grid.cells)
    every = dict.fromkeys(name for measures in by_run.values() for name in measures)
    lacking: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for cell in grid.cells:
        if cell.name not in by_run:
            continue
        missed = [name for name in every if name not in by_run[cell.name]]
        absent = tuple(name for name in missed if name != "zeroshot" or _reads_text(cell))
        if protocol in absent or (absent and not protocol):
            command = grid.commands.get(cell.name, "")
            lacking.setdefault((absent, command), []).append(cell.name)
    return [
        f"not measured by {', '.join(absent)}: {_some(names)}; to add "
        f"{'them' if names[1:] else 'it'}: {_measuring(command, every)}"
        for (absent, command), names in lacking.items()
    ]


def _measures(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Return by what each pre-training is measured: protocols, N-shot, finetune."""
    by_run: dict[str, list[str]] = {}
    for cell in cells:
        if cell.stage == EVALUATE:
            by_run.setdefault(cell.needs[0], []).extend(_protocols(cell))
        if cell.stage == FINETUNE and cell.needs and FINETUNE not in by_run.get(cell.needs[0], ()):
            by_run.setdefault(cell.needs[0], []).append(FINETUNE)
    return by_run


def _protocols(evaluation: Cell) -> list[str]:
    shots = [f"{number}{_SHOT}" for number in evaluation.config["shots"]]
    return [*evaluation.config["protocols"], *shots]


def _measuring(command: str, measures: Collection[str]) -> str:
    """Return a command of submit_sweep as it was, but for what it measures by."""
    shots = [name.removesuffix(_SHOT) for name in measures if name.endswith(_SHOT)]
    protocols = [name for name in measures if not name.endswith(_SHOT)]
    flags = [
        f"--protocols={','.join(protocols)}",
        *([f"--shots={','.join(shots)}"] if shots else []),
    ]
    if not command:  # of a grid of an earlier version
        return f"give the command that began this again with {' '.join(flags)}"
    words: list[str] = []
    rest = shlex.split(command)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name.lstrip("-") not in _MEASURES:
            words.append(word)
        elif not equals:
            rest.pop(0)  # its value
    return shlex.join([*words, *flags])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def joined(before: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells of the grid in `before`, if it is one, and the new ones; no report.

    Raises ValueError where a cell would be another one under the same name, or a repeat of one
    with more than another seed.
    """
    old = read(before).cells if (before / MANIFEST).is_file() else ()
    known = {cell.name: cell for cell in old if cell.stage != REPORT}
    for cell in cells:
        if cell.name in known and (field := _difference(known[cell.name], cell)):
            raise ValueError(
                f"{before}: has a cell {cell.name} with another {field}; choose another --name, or "
                f"remove that grid"
            )
        for repeat in (one for one in known.values() if _are_repeats(one, cell)):
            if field := _difference(repeat, cell, free=("seed",)):
                raise ValueError(
                    f"{before}: {repeat.name} has another {field} than {cell.name} would have, and "
                    f"a table takes the mean of both; choose another --name"
                )
    return list((known | {cell.name: cell for cell in cells}).values())


def _are_repeats(old: Cell, new: Cell) -> bool:
    """Return whether two pre-trainings are of one method, with other seeds."""
    both = old.stage == new.stage == PRETRAIN and old.name != new.name
    return both and old.config["name"] == new.config["name"]


def _difference(old: Cell, new: Cell, free: Collection[str] = ()) -> str:
    """Return the first field in which what is learnt differs; "" where it is the same."""
    if old.stage != new.stage:
        return "stage"
    if old.stage == EVALUATE:
        return ""  # other protocols or datasets are measured beside those of before
    then, now = (_learnt(cell) for cell in (old, new))
    return next((name for name in now if now[name] != then.get(name) and name not in free), "")


def _learnt(cell: Cell) -> dict[str, Any]:
    if cell.stage == PRETRAIN:
        return learnt(override(Config(), cell.config))
    config = asdict(override(FinetuneConfig(), cell.config))
    return {name: value for name, value in config.items() if name not in _FREE}


def launches(launch: Mapping[str, Any], hours: float) -> dict[str, dict[str, Any]]:
    """Return how each stage is launched: all GPUs for a pre-training, one for a fine-tuning.

    Args:
        launch: fields of LaunchConfig.
        hours: time limit of an evaluation, of a fine-tuning, and of the report.
    """
    gpus = launch["gpus"]
    ranks = gpus or (launch["cpu_ranks"] if gpus == 0 else 1)
    memory = launch["memory_gb"] and -(-launch["memory_gb"] // ranks)
    alone = {"nodes": 1, "cpu_ranks": 1, "hours": hours, "memory_gb": memory}
    return {
        PRETRAIN: dict(launch),
        EVALUATE: {**launch, **alone, "gpus": gpus and 1},
        FINETUNE: {**launch, **alone, "gpus": gpus and 1},
        REPORT: {**launch, **alone, "gpus": 0},
    }


def grid_of(
    directory: Path, cells: Sequence[Cell], launch: Mapping[str, Any], hours: float,
    cluster: str, parallelism: int | None, pack: int = 1, command: str = "",
) -> Grid:  # fmt: skip
    """Return the grid of a directory: its cells of before, `cells`, and a report on all.

    Args:
        command: the command line that asks for `cells`.
    """
    every = joined(directory, cells)
    every += reporting(every, directory)
    commands = dict(read(directory).commands) if (directory / MANIFEST).is_file() else {}
    commands |= {cell.name: command for cell in cells if cell.stage == PRETRAIN and command}
    return Grid(
        directory, tuple(every), launches(launch, hours), cluster, parallelism, pack, commands
    )

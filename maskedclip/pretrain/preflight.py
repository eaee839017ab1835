"""The pre-flight check: what a run needs before its job is queued."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from maskedclip.config import Config
from maskedclip.data.image_hashes import tested_indices
from maskedclip.data.label_kinds import refuse_unlabelled
from maskedclip.data.pretraining_images import PretrainingImages
from maskedclip.data.source import Source
from maskedclip.data.stated_tests import stated_tests
from maskedclip.data.storage.open_dataset import describe
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.whole_file import refuse_unwritable
from maskedclip.metrics.results import seen_words
from maskedclip.models import BUILTIN
from maskedclip.models.checkpoints.files import locate
from maskedclip.pretrain.left_out import left_out_datasets
from maskedclip.pretrain.measured_after import check_measured
from maskedclip.pretrain.run_identity import refuse_another
from maskedclip.recipes import RECIPES
from maskedclip.shards.image_folders import as_shards, tree_of
from maskedclip.shards.make import ShardRequest, build

logger = logging.getLogger(__name__)
# fields that take folders of images, too, of which the run makes shards
MAY_BE_TREES = frozenset({"log.probe", "data.leave_out_tests_of"})


def prepare(config: Config, *, before_ranks: bool = False) -> None:
    """Check everything the run will read, and draw the demo's phantoms if they are missing.

    Raises ValueError for a directory without shards, an unset source, weights that are missing or
    damaged, a text tower that is not on this machine, or an --out that cannot be written: at once,
    and not after hours in a queue.

    Args:
        before_ranks: the run's ranks begin at once on this machine, with the check of the method,
            for which torch has to be loaded: it is then made here only before phantoms are drawn.
    """
    refuse_unwritable("out", config.directory)
    undrawn = _undrawn(config)
    if undrawn or not before_ranks:
        from maskedclip.pretrain.methods import method_of  # loads torch, in seconds

        method_of(config)
    _check_named(config)
    if config.loss.clip and config.model.text != BUILTIN:
        from maskedclip.models.text import check_text

        check_text(config.model.text)
    if undrawn:  # what else is named is looked at before anything is written
        _check_datasets(config, build=False)
    for number, directory in undrawn.items():
        _draw(directory, config, number)
    _check_datasets(config, build=True)


def check(config: Config) -> None:
    """Raise ValueError as `prepare` does, and write nothing: what is to be drawn is not read.

    Text towers are left out: a plan is made where they are not needed, too.
    """
    _check_named(config)
    _check_datasets(config, build=False)


def _check_named(config: Config) -> None:
    for name in ("paired", "unpaired"):
        if missing := unnamed(config, name):
            raise ValueError(f"data.{name}: {missing}")
    refuse_another(config)
    if config.init_from:
        _check_weights(config)


def _undrawn(config: Config) -> dict[int, Path]:
    """Return the directories of phantoms that the run is still to draw, by their number."""
    read = fields_by_directory(config)
    return {
        number: directory
        for number, directory in enumerate(map(Path, _all(config)))
        if config.data.draw_phantoms
        and directory in read
        and directory.name.startswith("phantom")
        and not (directory / MANIFEST).exists()
    }


def _check_datasets(config: Config, *, build: bool) -> None:
    """Raise ValueError, before hours of training, where a dataset cannot do what it is named for.

    Phantoms that are still to be drawn are left out; so are trees of images, unless `build`.
    """
    undrawn = _undrawn(config).values()
    task_of = {
        "after.datasets": ("after.task", config.after.task),
        "log.probe": ("log.probe_task", config.log.probe_task),
    }
    for directory, fields in fields_by_directory(config).items():
        if directory in undrawn:
            continue
        may_be_tree = MAY_BE_TREES.issuperset(fields)
        try:
            if may_be_tree and not build and tree_of(directory) is not None:
                continue
            shards = as_shards(directory) if may_be_tree else directory
            manifest = describe(shards)
            if task_of.keys() & {*fields}:
                refuse_unlabelled(shards, manifest)
        except ValueError as error:
            way = or_else(fields, config)
            raise ValueError(f"{' and '.join(fields)}: {error}; {way}") from None
        for field in filter(task_of.get, fields):
            _check_task(shards, *task_of[field])
    check_measured(config, undrawn)


def fields_by_directory(config: Config) -> dict[Path, list[str]]:
    """Return which fields name each directory that the run reads."""
    paired, unpaired = config.data.read
    found = dict[Path, list[str]]()
    named: dict[str, Iterable[str | Path]] = {
        "data.paired": paired,
        "data.unpaired": unpaired,
        "after.datasets": config.after.datasets,
        "log.probe": [config.log.probe] if config.log.probe else [],
        "data.leave_out_tests_of": left_out_datasets(config),
    }
    for field, directories in named.items():
        for directory in map(Path, directories):
            if field != "data.leave_out_tests_of" or directory not in found:
                found.setdefault(directory, []).append(field)
    return found


def or_else(fields: Iterable[str], config: Config) -> str:
    """Return how to name another directory, or none where a run can do without."""
    needed = ("data.paired", "data.unpaired")
    ways = [
        f"--{field}" if field in needed else f"--{field}{_own(field, config)} (none: --{field}=)"
        for field in fields
    ]
    return f"or name another as {' and '.join(ways)}"


def _own(field: str, config: Config) -> str:
    """Return "=DIR --after.task=TASK" of the run's own first labelled shards; "" for others."""
    if field != "after.datasets":
        return ""
    for directory in dict.fromkeys((*config.data.paired, *config.data.unpaired)):
        try:
            tasks = _tasks(describe(Path(directory)))
        except ValueError:  # it is refused by its own field
            continue
        if tasks:
            task = config.after.task if config.after.task in tasks else tasks[0]
            return f"={quote(directory)} --after.task={quote(task)}"
    return ""


def _tasks(manifest: Mapping[str, Any]) -> list[str]:
    return list(manifest.get("classes", {}) | manifest.get("kinds", {}))


def _check_task(directory: Path, field: str, task: str) -> None:
    tasks = _tasks(describe(directory))
    if task and tasks and task not in tasks:
        raise ValueError(
            f"{field} {task!r}: {directory} has {', '.join(tasks)}; pass one of them as "
            f"--{field}, or an empty one for the first"
        )


def _check_weights(config: Config) -> None:
    """Raise ValueError where weights are missing, damaged, no encoder, or of another geometry."""
    from maskedclip.models.pretrained import check_start

    if fetch := _fetched_by_recipe(config):
        _check_fetched(config.init_from, fetch)
    model = config.model
    check_start(
        config.init_from, size=model.size, image_size=model.image_size,
        patch_size=model.patch_size, registers=model.registers, positions=model.positions,
    )  # fmt: skip


def _fetched_by_recipe(config: Config) -> str:
    """Return what fetches the weights of a recipe, and its text tower; "" for those of none."""
    for name, recipe in RECIPES.items():
        own = recipe()
        if own.init_from and own.init_from == config.init_from:
            text = config.model.text
            other = "" if text == own.model.text else f" --model.text={quote(text)}"
            return f"python tools/prefetch.py {name}{other}"
    return ""


def _check_fetched(name: str, fetch: str) -> None:
    """Raise ValueError, with the command to run, where a hub's weights are not on this machine."""
    if Path(name).exists():
        return
    try:
        locate(name)
    except ValueError:
        raise ValueError(
            f"init_from {name} is not on this machine; on one with network run `{fetch}`, or give "
            f"a run or a file of weights"
        ) from None


def unnamed(config: Config, source: str) -> str:
    """Return what to pass where the shards of "paired" or "unpaired" are not named; else ""."""
    if not getattr(config.data, f"{source}_batch") or getattr(config.data, source):
        return ""
    spared = source == "unpaired" or not config.loss.clip  # without a contrast no pairs are needed
    without = f" or --data.{source}_batch=0 to do without" if spared else ""
    return f"no shard directory is named; pass --data.{source}=DIR,...{without}"


def pretraining_on_tests(config: Config, counted: Mapping[str, int] | None = None) -> str:
    """Return in one line which sources hold test images of labelled datasets; "" where none do.

    By manifests and split files; what the run draws itself is no test set.

    Args:
        counted: test images that take part, by the dataset's path, where the run counted them;
            third-party tars have no manifest that says it.
    """
    counted = counted or {}
    data = config.data
    if data.leave_out_tests:
        return ""
    spared = {Path(name).resolve() for name in data.leave_out_tests_of}
    found = []
    for name in ("paired", "unpaired"):
        for directory in getattr(data, name) if getattr(data, f"{name}_batch") else ():
            path = Path(directory)
            if path.resolve() in spared or not path.exists() or is_drawn(path, config):
                continue
            try:
                count = counted[str(path)] if str(path) in counted else stated_tests(path)
            except ValueError:  # whoever reads the dataset says what is wrong with it
                continue
            found += [f"{count:,} of {directory}"] if count else []
    if not found:
        return ""
    return (
        f"test images of labelled datasets are in pre-training: {', '.join(dict.fromkeys(found))}; "
        f"scores on them will carry a dagger; --data.leave_out_tests keeps them out "
        f"(docs/leakage.md)"
    )


def warn_of_tests(
    config: Config, sources: Iterable[Source | None], images: PretrainingImages
) -> None:
    """Log which test images are in a pre-training that is about to begin.

    Args:
        images: those of the run; of other ranks than the first nothing.
    """
    if images == PretrainingImages():
        return
    counted: dict[str, int] = {}
    for source in filter(None, sources):
        for number, dataset in enumerate(source.datasets):
            shown = np.intersect1d(tested_indices(dataset, ""), source.taking_part(number))
            name = str(dataset.directory)
            counted[name] = max(len(shown), counted.get(name, 0))
    if line := pretraining_on_tests(config, counted):
        logger.warning("%s", line)
    for name in config.after.datasets:
        dataset = Shards(as_shards(Path(name)))
        index_N = tested_indices(dataset, config.after.task)
        seen = images.seen(dataset, index_N.tolist())
        if words := seen_words(seen.names, seen.images, len(index_N), seen.note):
            logger.warning("after.datasets %s: %s", name, words)


def is_drawn(directory: Path, config: Config) -> bool:
    """Return whether a directory holds the phantoms that the run itself draws."""
    if not config.data.draw_phantoms or not directory.name.startswith("phantom"):
        return False
    if not (directory / MANIFEST).is_file():
        return True
    settings = describe(directory).get("settings", {})
    request = [_request(directory, config, number) for number in range(len(_all(config)))]
    names = ("size", "count", "seed")
    return any(all(settings.get(n) == getattr(one, n) for n in names) for one in request)


def _draw(directory: Path, config: Config, number: int) -> None:
    """Build a phantom dataset; each of a run's datasets shows other eyes."""
    build(_request(directory, config, number))


def _request(directory: Path, config: Config, number: int) -> ShardRequest:
    return ShardRequest(
        dataset="phantom",
        out=directory,
        name=directory.name,
        size=-(-config.model.image_size // 32) * 32 + 32,  # a little larger than the crops
        count=config.data.draw_phantoms,
        seed=number * 1_000_000,
    )


def _all(config: Config) -> list[str]:
    return [*config.data.paired, *config.data.unpaired, *config.after.datasets]

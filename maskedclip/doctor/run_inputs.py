"""What a run reads: its shards, split over its ranks, its text tower, its initial weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from maskedclip.command import with_nearest
from maskedclip.config import Config, check_divisible
from maskedclip.doctor.filesystem import shared
from maskedclip.doctor.outcome import Outcome, failed, not_applicable, ok, warning
from maskedclip.weights.prefetch import holds, needs

_NO_RECIPE = "name a recipe to check what it reads"


def shards(config: Config | None) -> Outcome:
    """Judge whether the shards are there and as long as their manifests say; no tar is read."""
    if config is None:
        return not_applicable(_NO_RECIPE)
    from maskedclip.pretrain.preflight import MAY_BE_TREES, fields_by_directory, or_else  # NumPy

    for name in ("paired", "unpaired"):
        if getattr(config.data, f"{name}_batch") and not getattr(config.data, name):
            return failed(
                f"data.{name} names no shard directory",
                f"name some as --data.{name}, or train without by --data.{name}_batch=0",
            )
    count, trees, named = 0, list[str](), fields_by_directory(config)
    for directory, fields in named.items():
        if _drawn(directory, config):
            continue
        try:
            if MAY_BE_TREES.issuperset(fields) and _is_tree(directory):
                trees += fields
                continue
            entries = _describe(directory)["shards"]
        except ValueError as error:
            way = f"how to build it, {or_else(fields, config)}"
            return failed(
                with_nearest(f"{' and '.join(fields)}: {error}"),
                f"python tools/make_shards.py --list    # {way}",
            )
        count += len(entries)
        for entry in entries:
            path = directory / entry["file"] if directory.is_dir() else directory
            size = path.stat().st_size if path.is_file() else -1
            if size != entry.get("bytes", size) or size < 0:
                state = f"has {size:,} bytes of {entry['bytes']:,}" if size >= 0 else "is missing"
                return failed(
                    f"{path} {state}", f"python tools/check_shards.py {quote(str(directory))}"
                )
    made = f"; {' and '.join(trees)}: folders of images, of which the run makes shards"
    return ok(
        f"{count} shards of {len(named) - len(trees)} directories, each of the length in its "
        f"manifest{made if trees else ''}"
    )


def test_images(config: Config | None) -> Outcome:
    """Judge whether pre-training holds test images of labelled datasets; no tar is read."""
    if config is None:
        return not_applicable(_NO_RECIPE)
    from maskedclip.pretrain.preflight import pretraining_on_tests  # NumPy

    if found := pretraining_on_tests(config):
        message, _, fix = found.partition("; ")
        return warning(message, f"--data.leave_out_tests ({fix.partition(';')[0]})")
    if config.data.leave_out_tests:
        return ok("test images of the sources are left out")
    return ok("no source states a test split of labelled images")


def shard_count(config: Config | None) -> int:
    """Return how many shards a rank keeps open; 0 where they cannot be counted."""
    if config is None:
        return 0
    from maskedclip.pretrain.preflight import fields_by_directory  # NumPy

    total = 0
    for directory in fields_by_directory(config):
        try:
            total += len(_describe(directory)["shards"])
        except (ValueError, OSError):
            continue  # reported by `shards`
    return total


def batch_split(config: Config | None, ranks: int) -> Outcome:
    """Judge whether the batch is divisible by the ranks, and the data large enough for it."""
    if config is None:
        return not_applicable(_NO_RECIPE)
    sizes = config.data.paired_batch, config.data.unpaired_batch
    try:
        check_divisible(sizes, ranks, config.optim.accumulate)
    except ValueError as error:
        message, _, fix = str(error).partition("; ")
        return failed(message, fix)
    names = ("paired", "unpaired")
    for name, size in zip(names, sizes, strict=True):
        samples = _samples(config, getattr(config.data, name))
        if samples is not None and size > samples:
            return warning(
                f"data.{name}: {samples:,} samples for {size:,} a step: some come twice",
                f"--data.{name}_batch={max(ranks, samples // ranks * ranks)}, or more shards",
            )
    return ok(f"{sum(sizes) // ranks} images a rank and step on {ranks} ranks")


def file_systems(config: Config | None, mounts: str, nodes: int) -> Outcome:
    """Judge the file systems of the shards; the first that other nodes do not see counts."""
    if config is None:
        return not_applicable(_NO_RECIPE)
    from maskedclip.pretrain.preflight import fields_by_directory  # NumPy

    outcomes = [shared(path, mounts, nodes, "the shards") for path in fields_by_directory(config)]
    if not outcomes:
        return not_applicable("no shard directory is named")
    states = ("failed", "warning", "ok")
    return min(outcomes, key=lambda outcome: states.index(outcome.state))


def hub_weights(config: Config | None, named: str) -> Outcome:
    """Judge whether what comes from a hub is on this machine, for jobs without network."""
    if config is None:
        return not_applicable(_NO_RECIPE)
    wanted = needs(config)
    if not wanted:
        return ok(f"model.text={config.model.text}: nothing from a hub is needed")
    missing = [need for need in wanted if not holds(need)]
    if missing:
        names = ", ".join(f"{need.field} {need.name}" for need in missing)
        return failed(f"not on this machine: {names}", f"python tools/prefetch.py {named}".strip())
    return ok(", ".join(f"{need.field} {need.name}" for need in wanted))


def _describe(directory: Path) -> Mapping[str, Any]:
    from maskedclip.data.storage.open_dataset import describe  # NumPy, which --help does without

    return describe(directory)


def _is_tree(directory: Path) -> bool:
    from maskedclip.shards.image_folders import tree_of  # NumPy, too

    return tree_of(directory) is not None


def _drawn(directory: Path, config: Config) -> bool:
    drawn = config.data.draw_phantoms and directory.name.startswith("phantom")
    return bool(drawn) and not (directory / "manifest.json").exists()


def _samples(config: Config, names: Sequence[str]) -> int | None:
    """Return the samples of directories; None where a manifest does not say."""
    total = 0
    for directory in map(Path, names):
        if _drawn(directory, config):
            total += config.data.draw_phantoms
            continue
        try:
            count = _describe(directory).get("samples")
        except ValueError:
            return None
        if count is None:
            return None
        total += int(count)
    return total if names else None

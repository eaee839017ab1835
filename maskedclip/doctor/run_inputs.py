"""What a run reads: its shards, split over its ranks, its text tower, its initial weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from maskedclip.config import Config, check_divisible
from maskedclip.doctor.filesystem import shared
from maskedclip.doctor.outcome import Outcome, failed, not_applicable, ok, warning
from maskedclip.weights.prefetch import holds, needs

_NO_RECIPE = "name a recipe to check what it reads"


def directories(config: Config) -> list[Path]:
    """Return every shard directory of a run, each once."""
    data = config.data
    paired, unpaired = (
        getattr(data, name) if getattr(data, f"{name}_batch") else ()
        for name in ("paired", "unpaired")
    )
    probe = (config.log.probe,) if config.log.probe else ()
    named = (*paired, *unpaired, *config.after.datasets, *probe)
    return [Path(p) for p in dict.fromkeys(named)]


def shards(config: Config | None) -> Outcome:
    """Judge whether the shards are there and as long as their manifests say; no tar is read."""
    if config is None:
        return not_applicable(_NO_RECIPE)
    for name in ("paired", "unpaired"):
        if getattr(config.data, f"{name}_batch") and not getattr(config.data, name):
            return failed(f"data.{name} names no shard directory", f"--data.{name}=DIR,...")
    count, trees = 0, ""
    for directory in directories(config):
        if _drawn(directory, config):
            continue
        try:
            if config.log.probe and directory == Path(config.log.probe) and _is_tree(directory):
                trees = "; log.probe is a folder of images, of which the run makes shards"
                continue
            entries = _describe(directory)["shards"]
        except ValueError as error:
            from maskedclip.pretrain.preflight import fields_by_directory, or_else  # NumPy

            fields = fields_by_directory(config)[directory]
            build = f"python tools/make_shards.py DATASET --out {quote(str(directory))}"
            return failed(f"{' and '.join(fields)}: {error}", f"{build}; {or_else(fields)}")
        count += len(entries)
        for entry in entries:
            path = directory / entry["file"] if directory.is_dir() else directory
            size = path.stat().st_size if path.is_file() else -1
            if size != entry.get("bytes", size) or size < 0:
                state = f"has {size:,} bytes of {entry['bytes']:,}" if size >= 0 else "is missing"
                return failed(
                    f"{path} {state}", f"python tools/check_shards.py {quote(str(directory))}"
                )
    number = len(directories(config)) - bool(trees)
    return ok(f"{count} shards of {number} directories, each of the length in its manifest{trees}")


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
    total = 0
    for directory in directories(config):
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
    if config is None or not directories(config):
        return not_applicable(_NO_RECIPE if config is None else "no shard directory is named")
    outcomes = [shared(path, mounts, nodes, "the shards") for path in directories(config)]
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

"""What a run reads: its shards, shared out to its ranks, the text tower, weights to begin with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskedclip.config import Config, check_shares
from maskedclip.doctor.filesystem import shared
from maskedclip.doctor.finding import Finding, absent, failed, ok, warning
from maskedclip.weights.prefetch import holds, needs

_NO_RECIPE = "name a recipe to look at what it reads"


def directories(config: Config) -> list[Path]:
    """Return every shard directory of a run, each once."""
    data = config.data
    unpaired = data.unpaired if data.unpaired_batch else ()
    return [Path(p) for p in dict.fromkeys((*data.paired, *unpaired, *config.after.datasets))]


def data(config: Config | None) -> Finding:
    """Judge whether the shards are there and as long as their manifests say; no tar is read."""
    if config is None:
        return absent(_NO_RECIPE)
    for name in ("paired", "unpaired"):
        if getattr(config.data, f"{name}_batch") and not getattr(config.data, name):
            return failed(f"data.{name} names no shard directory", f"--data.{name}=DIR,...")
    shards = 0
    for directory in directories(config):
        if _drawn(directory, config):
            continue
        try:
            entries = _describe(directory)["shards"]
        except ValueError as error:
            return failed(str(error), f"python tools/make_shards.py DATASET --out {directory}")
        shards += len(entries)
        for entry in entries:
            path = directory / entry["file"] if directory.is_dir() else directory
            size = path.stat().st_size if path.is_file() else -1
            if size != entry.get("bytes", size) or size < 0:
                found = f"has {size:,} bytes of {entry['bytes']:,}" if size >= 0 else "is missing"
                return failed(f"{path} {found}", f"python tools/check_shards.py {directory}")
    count = len(directories(config))
    return ok(f"{shards} shards of {count} directories, each of the length in its manifest")


def shard_count(config: Config | None) -> int:
    """Return how many shards a rank keeps open; 0 where they cannot be counted."""
    if config is None:
        return 0
    total = 0
    for directory in directories(config):
        try:
            total += len(_describe(directory)["shards"])
        except (ValueError, OSError):
            continue  # said by `data`
    return total


def shares(config: Config | None, ranks: int) -> Finding:
    """Judge whether a step can be shared out to all ranks, and has samples enough."""
    if config is None:
        return absent(_NO_RECIPE)
    sizes = config.data.paired_batch, config.data.unpaired_batch
    try:
        check_shares(sizes, ranks, config.optim.accumulate)
    except ValueError as error:
        found, _, mend = str(error).partition("; ")
        return failed(found, mend)
    names = ("paired", "unpaired")
    for name, size in zip(names, sizes, strict=True):
        samples = _samples(config, getattr(config.data, name))
        if samples is not None and size > samples:
            return warning(
                f"data.{name}: {samples:,} samples for {size:,} a step: each comes more than once",
                f"--data.{name}_batch={max(ranks, samples // ranks * ranks)}, or more shards",
            )
    shards, each = shard_count(config), sum(sizes) // ranks
    return ok(
        f"{each} images a rank and step on {ranks} ranks; {shards} shards serve any number of ranks"
    )


def place(config: Config | None, mounts: str, nodes: int) -> Finding:
    """Judge on which file systems the shards are; the first that other nodes miss counts."""
    if config is None or not directories(config):
        return absent(_NO_RECIPE if config is None else "no shard directory is named")
    found = [shared(path, mounts, nodes, "the shards") for path in directories(config)]
    states = ("failed", "warning", "ok")
    return min(found, key=lambda finding: states.index(finding.state))


def towers(config: Config | None, named: str) -> Finding:
    """Judge whether what comes from a hub is on this machine, for jobs without network."""
    if config is None:
        return absent(_NO_RECIPE)
    wanted = needs(config)
    if not wanted:
        return ok(f"model.text={config.model.text}: nothing from a hub is needed")
    missing = [need for need in wanted if not holds(need)]
    if missing:
        said = ", ".join(f"{need.field} {need.name}" for need in missing)
        return failed(f"not on this machine: {said}", f"python tools/prefetch.py {named}".strip())
    return ok(", ".join(f"{need.field} {need.name}" for need in wanted))


def _describe(directory: Path) -> Mapping[str, Any]:
    from maskedclip.data.storage.open_dataset import describe  # NumPy, which --help does without

    return describe(directory)


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

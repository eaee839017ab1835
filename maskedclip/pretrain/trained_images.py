"""Which images a run is trained on: test images that stay out, the list that it keeps, and whose
list stands behind given weights.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist

from maskedclip.config import Config, load
from maskedclip.data.image_hashes import ImageSet, image_facts, tested_images
from maskedclip.data.pretraining_images import (
    PretrainingImages,
    TrainedDataset,
    from_facts,
    read_images,
    recipe_of,
    write_images,
)
from maskedclip.data.source import Source, without_caption
from maskedclip.data.storage.exclusions import EXCLUSIONS
from maskedclip.data.storage.open_dataset import dataset_sha256
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.whole_file import read_json
from maskedclip.models.checkpoints.files import OWN, RANDOM, locate, read_checkpoint, read_facts
from maskedclip.pretrain.left_out import leaves_out, left_out_datasets
from maskedclip.shards.image_folders import as_shards

if TYPE_CHECKING:
    from maskedclip.models.pretrained import EncoderInfo

logger = logging.getLogger(__name__)
LEFT_OUT, UNCAPTIONED = "left_out_tests.json", "without_caption.json"
_USES = ("paired", "unpaired")


def tested_of(
    config: Config, sources: Mapping[str, Sequence[Shards]]
) -> dict[str, list[list[int]]]:
    """Return for each dataset of the sources the sorted indices of the test images to leave out.

    They are found by their content, under whatever name and in whichever split they are there.
    """
    others = [Shards(as_shards(directory)) for directory in left_out_datasets(config)]
    own = [dataset for datasets in sources.values() for dataset in datasets]
    tests = tested_images([*(own if config.data.leave_out_tests else ()), *others])
    return {
        name: [np.flatnonzero(tests.holds(image_facts(d).hash_N2)).tolist() for d in datasets]
        for name, datasets in sources.items()
    }


def planned_sources(config: Config) -> dict[str, Source]:
    """Return the sources of a run that leaves test images out, before it begins."""
    data = config.data
    datasets = {
        use: [Shards(Path(directory)) for directory in getattr(data, use)]
        for use in _USES
        if getattr(data, f"{use}_batch")
    }
    tested = tested_of(config, datasets)
    return {
        use: Source(
            use, own, config.seed, use == "paired", weights=getattr(data, f"{use}_weights"),
            tested=[np.array(indices, np.int64) for indices in tested[use]],
        )
        for use, own in datasets.items()
    }  # fmt: skip


def trained_dataset(
    dataset: Shards, index_N: np.ndarray, use: str, name: str = "", out: int | None = None
) -> TrainedDataset:
    """Return the images of a dataset that are trained on, as a run keeps them.

    Args:
        out: how many test images were left out, where they were to be.
    """
    hash_K = ImageSet([image_facts(dataset).hash_N2[index_N]]).hash_K
    known_as = name or dataset.name, recipe_of(dataset)
    return TrainedDataset(*known_as, use, len(index_N), out, hash_K)


def keep_images(config: Config, sources: Sequence[Source | None]) -> PretrainingImages:
    """Return which images the run is trained on, kept in its directory since its first start.

    On other ranks than the first there is nothing to do.
    """
    if dist.get_rank():
        return PretrainingImages()
    known = _kept_list(config.directory)
    if known is not None:
        return known
    images = images_behind(config.init_from) if config.init_from else PretrainingImages()
    for source in filter(None, sources):
        for number, dataset in enumerate(source.datasets):
            index_N = source.taking_part(number)
            out = len(source.tested[number]) if leaves_out(config) else None
            if len(index_N):
                images += PretrainingImages(
                    (trained_dataset(dataset, index_N, source.name, out=out),)
                )
    write_images(config.directory, images)
    return images


def images_behind(weights: str | Path, info: "EncoderInfo | None" = None) -> PretrainingImages:
    """Return which images weights were trained on, as far as that is known.

    That is the list in the run's directory; of a run from before there were such lists what its
    configuration names, where that is still here; else the names in the header of the weights. Of
    third-party weights it is what their makers say. Raises ValueError where there are no weights.

    Args:
        info: what was recognised of them, where that is at hand: it spares reading them.
    """
    if str(weights) == RANDOM:
        return PretrainingImages()
    file = locate(weights, OWN)
    header, facts = read_facts(file)
    if not header:
        if facts:  # of an export for another library
            return from_facts(facts)
        if info is None:
            from maskedclip.models.pretrained import recognise  # loads timm, in seconds

            info = recognise(read_checkpoint(weights, OWN)).info
        return _third_party(info.format, info.trained_on)
    known = _kept_list(file.parent)
    if known is None:
        known = _of_configuration(file.parent)
    if known is not None:
        return known
    if facts:
        return from_facts(facts)
    named = _third_party(str(header.get("form", "")), tuple(header.get("saw", ())))
    return named + PretrainingImages(unknown=("the weights lie without their run",))


def images_of_run(run: Path) -> PretrainingImages | None:
    """Return which images the weights of a run were trained on, None where nothing says it.

    Third-party weights are not read for it: the rows of a run that began from them say it.
    """
    known = _kept_list(run)
    if known is not None:
        return known
    try:
        config = json.loads((run / "config.json").read_text())
        base = str(config["weights"]) if "weights" in config else ""
        ours = base in ("", RANDOM) or bool(read_facts(locate(next(_there(run, base), base)))[0])
    except (OSError, ValueError, TypeError):
        return None
    return _of_configuration(run) if ours else None


def _third_party(form: str, trained_on: tuple[str, ...]) -> PretrainingImages:
    if "of no known form" in form:
        return PretrainingImages(unknown=(f"nobody says what {form} was trained on",))
    return PretrainingImages(forms=((form, trained_on),) if trained_on else ())


def _kept_list(run: Path) -> PretrainingImages | None:
    try:
        return read_images(run)
    except ValueError as error:
        logger.warning("%s", error)
        return None


def _of_configuration(run: Path) -> PretrainingImages | None:
    """Return what a run from before there were lists was trained on, None where it is no run.

    What is found whole is kept in its directory: the shards are read once.
    """
    try:
        config = json.loads((run / "config.json").read_text())
        if "weights" in config:
            return _of_base(run, str(config["weights"]))
        if "data" not in config:
            return None
        own = load(run / "config.json", Config)
    except (OSError, ValueError, TypeError):
        return None
    images = _of_base(run, own.init_from) if own.init_from else PretrainingImages()
    for use in _USES:
        if getattr(own.data, f"{use}_batch"):
            images += _of_directories(run, own, use)
    if not images.unknown:
        try:
            write_images(run, images)
        except OSError as error:
            logger.warning("%s: its list of images is not kept (%s)", run, error.strerror)
    return images


def _of_base(run: Path, weights: str) -> PretrainingImages:
    try:
        return images_behind(next(_there(run, weights), weights))
    except (ValueError, OSError):
        return PretrainingImages(
            unknown=(f"the weights that it began from ({weights}) are not here",)
        )


def _there(run: Path, name: str) -> Iterator[Path]:
    """Yield where a path of a run's configuration leads: it is relative to where it began."""
    for base in (Path(), *run.resolve().parents):
        if (base / name).exists():
            yield base / name


def _of_directories(run: Path, config: Config, use: str) -> PretrainingImages:
    images = PretrainingImages()
    directories = getattr(config.data, use)
    weights = getattr(config.data, f"{use}_weights") or (1,) * len(directories)
    uncaptioned = _json(run / UNCAPTIONED) if use == "paired" else {}
    tested = _json(run / LEFT_OUT).get(use, [[] for _ in directories])
    for name, weight, out in zip(directories, weights, tested, strict=False):
        if not weight:
            continue
        try:
            dataset = _as_it_was(run, name)
        except (ValueError, OSError) as error:
            gone = TrainedDataset(Path(name).name, Path(name).name, use, None, len(out) or None)
            images += PretrainingImages((gone,), unknown=(" ".join(str(error).split()),))
            continue
        quiet = uncaptioned.get(dataset.name) if use == "paired" else []
        quiet = without_caption(dataset).tolist() if quiet is None else quiet
        index_N = np.setdiff1d(np.arange(len(dataset)), [*quiet, *out, *dataset.excluded])
        one = trained_dataset(dataset, index_N, use, out=len(out) or None)
        images += PretrainingImages((one,))
    return images


def _as_it_was(run: Path, name: str) -> Shards:
    """Return a source of a run; ValueError where it is not here, or not as the run read it."""
    directory = next(_there(run, name), None)
    if directory is None:
        raise ValueError(f"the shards of pre-training are not here ({name})")
    attempts = _json(run / "provenance.json") or [{}]
    recorded = attempts[-1].get("manifests_sha256", {}).get(name)
    if recorded and recorded != dataset_sha256(directory):
        raise ValueError(f"the shards of pre-training have changed since ({name})")
    listed = directory / EXCLUSIONS
    digest = hashlib.sha256(listed.read_bytes()).hexdigest() if listed.is_file() else None
    if recorded and attempts[-1].get("exclusions_sha256", {}).get(name) != digest:
        raise ValueError(f"{EXCLUSIONS} has changed since pre-training ({name})")
    return Shards(directory)


def _json(path: Path) -> Any:
    return read_json(path, "remove it") if path.is_file() else {}

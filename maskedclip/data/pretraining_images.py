"""Which images weights were trained on: kept in a run, and asked when the weights are evaluated.

RUN/pretraining_images.safetensors has an array of hashes (data/image_hashes.py) a dataset, sorted:
16 bytes an image, from which no image and no name can be had. The header of the weights has the
names and counts alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from maskedclip.data.image_hashes import ImageSet, hashes_of
from maskedclip.data.storage.shard_writer import replacing
from maskedclip.data.storage.shards import Shards

PRETRAINING_IMAGES = "pretraining_images.safetensors"
_FORMAT = 1
_SHOWN = 4  # names of datasets in a row
NOT_LISTED = f"{PRETRAINING_IMAGES} is not beside the weights"


class TrainedDataset(NamedTuple):
    """A dataset whose images weights were trained on."""

    name: str
    recipe: str  # what it is known as (`recipe_of`)
    use: str  # paired, unpaired, or finetune
    images: int | None  # None: not known
    tests_left_out: int | None = None  # None: they were not asked to be left out
    hash_K: np.ndarray | None = None  # of its images; None: not known

    def facts(self) -> dict[str, Any]:
        return {k: v for k, v in self._asdict().items() if k != "hash_K"}


class SeenImages(NamedTuple):
    """How many test images were among those of training; of which datasets, or weights."""

    names: str = ""  # empty: of none
    images: int | None = 0  # None: not known
    note: str = ""  # why that is so

    def fields(self) -> dict[str, Any]:
        """Return the fields of a row of results."""
        return {"seen": self.names, "seen_images": self.images, "seen_note": self.note}


@dataclass(frozen=True)
class PretrainingImages:
    """All that is known of the images that weights were trained on, from their first step on."""

    datasets: tuple[TrainedDataset, ...] = ()
    # third-party weights at the beginning: their form, and the datasets that its makers name
    forms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    unknown: tuple[str, ...] = ()  # reasons why there may be others
    _sets: dict[int, ImageSet] = field(default_factory=dict, compare=False, repr=False)

    def __add__(self, other: "PretrainingImages") -> "PretrainingImages":
        return PretrainingImages(
            (*self.datasets, *other.datasets),
            tuple(dict.fromkeys((*self.forms, *other.forms))),
            tuple(dict.fromkeys((*self.unknown, *other.unknown))),
        )

    def facts(self) -> dict[str, Any]:
        """Return names and counts, for the header of the weights."""
        return {
            "format": _FORMAT,
            "datasets": [dataset.facts() for dataset in self.datasets],
            "forms": [[form, list(names)] for form, names in self.forms],
            "unknown": list(self.unknown),
        }

    def seen(self, dataset: Shards, index_B: Iterable[int]) -> SeenImages:
        """Return how many of these images of a dataset are among those trained on."""
        recipe = recipe_of(dataset)
        forms = [form for form, names in self.forms if recipe in names]
        if forms:
            return SeenImages(_some(forms), None, "not known: by what their makers say")
        index_B = np.array(list(index_B), np.int64)
        listed = [i for i, one in enumerate(self.datasets) if one.hash_K is not None]
        hash_B2 = hashes_of(dataset, index_B) if listed else np.zeros((len(index_B), 2), np.uint64)
        is_seen_B, names = np.zeros(len(index_B), bool), []
        for i in listed:
            here_B = self._set(i).holds(hash_B2)
            is_seen_B |= here_B
            names += [self.datasets[i].name] if here_B.any() else []
        unlisted = [one for one in self.datasets if one.hash_K is None]
        alike = [d for d in unlisted if {d.name, d.recipe} & {dataset.name, recipe}]
        reasons = [*self.unknown, *([] if self.unknown or not unlisted else [NOT_LISTED])]
        if alike and all(one.tests_left_out for one in alike):
            reasons = ["the header of the weights says that its test images were left out"]
        elif alike:
            names += [one.name for one in alike]
            return SeenImages(_some(names), None, f"not known: {_some(reasons)}")
        count = int(is_seen_B.sum())
        if reasons and not count:
            return SeenImages("", None, f"not known: {_some(reasons)}")
        return SeenImages(_some(names), count, f"at least: {_some(reasons)}" if reasons else "")

    def _set(self, number: int) -> ImageSet:
        if number not in self._sets:
            hash_K = self.datasets[number].hash_K
            assert hash_K is not None
            self._sets[number] = ImageSet([hash_K])
        return self._sets[number]


def recipe_of(dataset: Shards) -> str:
    """Return what a dataset is known as: the card that it was built by, else its name."""
    recipe = str(dataset.manifest.get("recipe", {}).get("name", ""))
    return dataset.name if recipe in ("", "folder", "csv", "phantom") else recipe


def _some(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
    return ", ".join(unique[:_SHOWN]) + more


def from_facts(facts: Mapping[str, Any]) -> PretrainingImages:
    """Return what the header of weights states: names and counts, and no list of images."""
    return PretrainingImages(
        tuple(TrainedDataset(**dataset) for dataset in facts["datasets"]),
        tuple((form, tuple(names)) for form, names in facts["forms"]),
        tuple(facts["unknown"]),
    )


def write_images(run: Path, images: PretrainingImages) -> None:
    """Write the list into a run's directory, in one rename; the same images, the same bytes."""
    arrays = {
        f"{number:04d}": dataset.hash_K
        for number, dataset in enumerate(images.datasets)
        if dataset.hash_K is not None
    }
    header = json.dumps(images.facts() | {"sha256": arrays_sha256(arrays)})
    with replacing(run / PRETRAINING_IMAGES) as file:
        file.write(safetensors.numpy.save(arrays, {"maskedclip": header}))


def read_images(run: Path) -> PretrainingImages | None:
    """Return the list of a run's directory, None where there is none.

    Raises ValueError, in one line, where it is damaged.
    """
    path = run / PRETRAINING_IMAGES
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {})["maskedclip"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["format"] != _FORMAT or facts["sha256"] != arrays_sha256(arrays):
            raise ValueError("its content is not what its header says")
        images = from_facts(facts)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(
            f"{path}: is damaged ({reason}); remove it, and it is made again"
        ) from None
    datasets = [
        one._replace(hash_K=arrays.get(f"{i:04d}")) for i, one in enumerate(images.datasets)
    ]
    return PretrainingImages(tuple(datasets), images.forms, images.unknown)


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a hash of arrays with their names, kinds and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()

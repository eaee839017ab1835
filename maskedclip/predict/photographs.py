"""The images that are predicted: a folder, one file or shards, each as the network is to see it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from maskedclip.data.labelled_views import sample_image
from maskedclip.data.photographs.decoding import UnreadableImage, decode
from maskedclip.data.photographs.image_file import read_image_file
from maskedclip.data.storage.open_dataset import dataset_sha256
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.storage.third_party_tars import third_party_tars
from maskedclip.data.transforms import decode as decode_stored
from maskedclip.shards.building.prepare_sample import encode, field_photograph, why_unreadable
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.files import (
    files_not_read,
    left_out_folders,
    odd_name,
    printable,
    size_and_time,
)
from maskedclip.shards.downloads.masks import photographs_below

_FULL = 1_000_000  # pixels: above any side


class Picture(NamedTuple):
    """One image to predict."""

    path: str  # in the folder, with slashes; of shards the source
    version: tuple[int, int]  # size and time (ns) of the file: others are predicted again
    number: int  # in its source


class PictureSource(Protocol):
    """Where images come from."""

    pictures: list[Picture]  # in the order of their paths
    remarks: list[str]  # what is left out, a line each
    identity: dict[str, str]  # of the folder, or of the content of shards

    def image(self, picture: Picture) -> Image.Image:
        """Return it in RGB; UnreadableImage, DamagedSample or OSError where it cannot be read."""
        ...


class FolderPictures:
    """The images of a folder and the folders in it, or one file."""

    def __init__(self, path: Path, photographs: dict[str, int] | None) -> None:
        """`photographs` are size and quality of the shards trained on; None: images as they are.

        Raises ValueError where there is no image.
        """
        self._photographs = photographs
        self.identity = {"folder": str(path.resolve())}
        if path.is_file():
            self._root, names, self.remarks = path.parent, [path.name], []
        else:
            files, masks = photographs_below(read_card("folder"), path)
            self._root, names = path, sorted(files.images)
            self.remarks = [f"left out: {line}" for line in left_out_folders(files)]
            self.remarks += [f"left out as masks: {line}" for line in masks]
            self.remarks += files_not_read(files)
            if not names:
                found = f" ({'; '.join(self.remarks)})" if self.remarks else ""
                raise ValueError(
                    f"{path}: no image in it{found}; name a folder of images or shards"
                )
        self._names = names
        self.pictures = [
            Picture(printable(name), size_and_time(self._root / name), index)
            for index, name in enumerate(names)
        ]

    @property
    def crops(self) -> bool:
        """Whether images are cropped to their field of view."""
        return self._photographs is not None

    def file(self, picture: Picture) -> Path:
        return self._root / self._names[picture.number]

    def image(self, picture: Picture) -> Image.Image:
        name = self._names[picture.number]
        if odd := odd_name(name):
            raise UnreadableImage(odd)
        content = read_image_file(self.file(picture))
        try:
            if self._photographs is None:
                return Image.fromarray(np.ascontiguousarray(decode(content, _FULL).image_HWC))
            return Image.fromarray(stored_photograph(content, **self._photographs))
        except UnreadableImage as error:
            raise UnreadableImage(why_unreadable(content, error)) from error


class ShardPictures:
    """The samples of a shard directory, as they are stored, but for those of its exclude.csv."""

    def __init__(self, path: Path) -> None:
        self._shards = Shards(path)
        self.identity = {"shards": str(path.resolve()), "sha256": dataset_sha256(path)}
        excluded = len(self._shards.excluded)
        self.remarks = [f"left out by exclude.csv: {excluded} samples"] if excluded else []
        names = dict(self._named())
        whole = len(set(names.values())) == len(names)  # else by their keys
        self.pictures = sorted(
            Picture(name if whole else self._shards.key(index), (0, 0), index)
            for index, name in names.items()
        )

    def _named(self) -> Iterator[tuple[int, str]]:
        for index in range(len(self._shards)):
            if index not in self._shards.excluded:
                try:
                    source = str(self._shards.metadata(index)["source"] or "")
                except DamagedSample:
                    source = ""
                yield index, source or self._shards.key(index)

    def image(self, picture: Picture) -> Image.Image:
        return sample_image(self._shards, picture.number)


def pictures_of(path: Path, photographs: dict[str, int] | None) -> PictureSource:
    """Return the images of a folder, a file or shards; ValueError where there is none."""
    if (path / MANIFEST).is_file() or third_party_tars(path):
        return ShardPictures(path)
    return FolderPictures(path, photographs)


def stored_photograph(content: bytes, size: int, quality: int, whole: int = 0) -> np.ndarray:
    """Return what a reader of shards gets of a file: its field of view, out of the JPEG there.

    whole: 1 where it has no round field, and all of it was stored.

    Raises UnreadableImage.
    """
    photograph = field_photograph(content, size, whole=bool(whole))
    return decode_stored(encode(photograph.image_HWC, quality))


def failure(error: Exception) -> str:
    """Return why an image cannot be read."""
    if isinstance(error, DamagedSample):
        return error.reason
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return str(error)


def facts_of(picture: Picture) -> dict[str, Any]:
    """Return what a row is known by."""
    return {"path": picture.path, "version": list(picture.version)}

"""Datasets that carry one name: their results would be the same rows of the same files."""

from collections.abc import Iterable
from pathlib import Path

from maskedclip.data.storage.open_dataset import describe
from maskedclip.shards.image_folders import tree_of


def refuse_one_name(field: str, directories: Iterable[Path]) -> None:
    """Raise ValueError where two datasets have one name, so that one's results replace the other's.

    Args:
        field: that names them, as the command line writes it.
        directories: of shards, third-party tars (which have no name) or trees of images; what is
            not there yet is passed over.
    """
    by_name: dict[str, Path] = {}
    for directory in directories:
        other = by_name.setdefault(_name(directory), directory)
        if other.resolve() != directory.resolve():
            raise ValueError(
                f"--{field}: {other} and {directory} are both called {_name(directory)}, so that "
                f"one's results would replace the other's; build one again with another --name, "
                f"or measure it by a command of its own, with another --out"
            )


def _name(directory: Path) -> str:
    if not directory.exists():
        return str(directory)
    if tree := tree_of(directory):
        return tree.name
    return str(describe(directory).get("name", directory))

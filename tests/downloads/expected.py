"""What a reader has to find in a download: written by hand beside each miniature."""

from pathlib import Path
from typing import NamedTuple


class Facts(NamedTuple):
    """What the dataset says of one image."""

    patient: str | None = None
    eye: str | None = None  # "L" or "R"
    split: str | None = None
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    categories: tuple[str, ...] = ()
    report: str | None = None


class Expected(NamedTuple):
    """Everything that is to be found under one root; sources are paths under it, with slashes."""

    samples: dict[str, Facts]  # every image that gives a record
    ignored: list[str]  # image files that give none: copies, masks, maps, other datasets
    labels_without_image: list[str]  # the stem of each label row whose image is absent
    images_without_label: list[str]
    unreadable: list[str]  # samples whose bytes are cut short or none at all


class WrongRoot(NamedTuple):
    """A folder that is not what the card wants, and words that the error of one line holds."""

    card: str
    root: Path
    words: tuple[str, ...]


def expected(
    samples: dict[str, Facts],
    *,
    ignored: list[str] | None = None,
    labels_without_image: list[str] | None = None,
    images_without_label: list[str] | None = None,
    unreadable: list[str] | None = None,
) -> Expected:
    """Return an Expected whose unnamed parts are empty."""
    return Expected(
        samples,
        ignored or [],
        labels_without_image or [],
        images_without_label or [],
        unreadable or [],
    )

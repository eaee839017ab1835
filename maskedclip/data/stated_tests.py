"""How many test images a dataset states: by its manifest and its split files, no tar is read."""

import re
from pathlib import Path

from maskedclip.data.labelled import SPLIT_NAMES
from maskedclip.data.splits import FOLDER, split_rows
from maskedclip.data.storage.open_dataset import describe


def stated_tests(directory: Path) -> int:
    """Return the number of test images of a dataset's tasks, 0 where none are known.

    Of splits/TASK.csv, or the published ones of a dataset with labels, whichever are more. Raises
    ValueError, in one line, where there is no dataset, or a split file is damaged.
    """
    counts = describe(directory).get("counts", {})
    published = counts.get("splits", {}) if counts.get("labels") else {}
    stated = sum(n for name, n in published.items() if SPLIT_NAMES.get(name) == "test")
    files = sorted((directory / FOLDER).glob("*.csv")) if directory.is_dir() else []
    usual = [file for file in files if not re.search(r"-seed\d+$", file.stem)]
    keys = {row[0] for file in usual for row in split_rows(file) if row[2] == "test"}
    return max(len(keys), stated)

"""The list of samples that could not be read, so that what is missing has a name."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from maskedclip.data.shards import DamagedSample

logger = logging.getLogger(__name__)


class Ledger:
    """A file of damaged samples of a dataset, each once: dataset, shard, key and reason a line."""

    def __init__(self, path: Path, dataset: str) -> None:
        self._path, self._dataset = path, dataset
        self._known = set(path.read_text().splitlines()) if path.exists() else set()

    def add(self, lost: Iterable[DamagedSample]) -> None:
        """Append the samples that are not listed yet, and say so."""
        for damage in lost:
            place = {"dataset": self._dataset, "shard": damage.shard, "key": damage.key}
            line = json.dumps(place | {"reason": damage.reason})
            if line in self._known:
                continue
            self._known.add(line)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(line + "\n")
            logger.warning("left out: %s", damage)

"""Goodput: what the time since a run's first start went to, through all of its restarts.

It is read back from the rows of metrics.jsonl, which have the time of day and the shares: what lies
behind the row that a start goes on from is done again (replayed), and from the last row to the
start the run did not run (restarting, with its time in a queue).
"""

from collections.abc import Mapping
from typing import Any

WAITING, MEASURING, SAVING = "waiting", "measuring", "saving"  # for data; for curves; checkpoints
PRODUCTIVE, RESTARTING, REPLAYED = "productive", "restarting", "replayed"
_KINDS = (PRODUCTIVE, WAITING, MEASURING, SAVING, RESTARTING, REPLAYED)


class Goodput:
    """Seconds by what they went to; `now` is the time of day in seconds, of one clock."""

    def __init__(
        self, kept: Mapping[str, Any] | None, last: Mapping[str, Any] | None, now: float
    ) -> None:
        """kept is the row that this start goes on from, last the last one that was written."""
        self._spent = dict.fromkeys(_KINDS, 0.0)
        known = [row for row in (kept, last) if row and _is_whole(row)]
        if kept and _is_whole(kept):
            for kind in _KINDS:
                self._spent[kind] = kept[f"goodput/{kind}"] * kept["run_s"]
        if known:  # where none is kept, all that was done so far is done again
            self._spent[REPLAYED] += max(0.0, known[-1]["run_s"] - sum(self._spent.values()))
            self._spent[RESTARTING] += max(0.0, now - known[-1]["unix_s"])
        self._since = now

    def interval(self, now: float, spent: Mapping[str, float], *, lost: bool = False) -> None:
        """Count the time since the last call: `spent` by kind, the rest as productive.

        A `lost` interval is done again.
        """
        seconds = max(0.0, now - self._since)
        self._since = now
        if lost:
            self._spent[REPLAYED] += seconds
            return
        for kind, value in spent.items():
            self._spent[kind] += value
        self._spent[PRODUCTIVE] += max(0.0, seconds - sum(spent.values()))

    def row(self, now: float) -> dict[str, float]:
        """Return the fields of a row of metrics.jsonl."""
        total = sum(self._spent.values())
        shares = {f"goodput/{kind}": self._spent[kind] / max(total, 1e-9) for kind in _KINDS}
        return {**shares, "run_s": total, "unix_s": now}


def _is_whole(row: Mapping[str, Any]) -> bool:
    return {"run_s", "unix_s", *(f"goodput/{kind}" for kind in _KINDS)} <= row.keys()

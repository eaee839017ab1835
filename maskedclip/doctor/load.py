"""How busy this machine is: what answers late on a busy one is not broken."""

import os

_MOST = 4.0  # times that a time limit is stretched


def busyness() -> float:
    """Return the processes that want a core, for each core of the machine, over the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def patience(busy: float | None = None) -> float:
    """Return by how much a time limit is to be stretched on this machine as busy as it is."""
    return min(_MOST, max(1.0, busyness() if busy is None else busy))

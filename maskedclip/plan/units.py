"""Planned numbers in units in which they are not 0.00."""

_BYTES = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "bytes": 1.0}
_COUNTS = {"M": 1e6, "k": 1e3, "": 1.0}
_TIMES = {"hours": 3600.0, "minutes": 60.0, "s": 1.0, "ms": 1e-3}
_WEIGHTS = {"kg": 1e3, "g": 1.0, "mg": 1e-3}


def in_bytes(value: float) -> str:
    """Return a size such as 12.3 GB, 4.56 MB or 0 bytes."""
    return _scaled(value, _BYTES)


def in_count(value: float) -> str:
    """Return a number of parameters, such as 303.1 M or 5.13 k."""
    return _scaled(value, _COUNTS)


def in_time(seconds: float) -> str:
    """Return a time such as 26.1 hours, 3.20 minutes or 14.0 ms."""
    return _scaled(seconds, _TIMES)


def in_weight(grams: float) -> str:
    """Return a weight such as 41.2 kg or 130.0 g."""
    return _scaled(grams, _WEIGHTS)


def in_column(value: float) -> str:
    """Return a value of a column whose unit stands above: what is there is never 0.00."""
    return "<0.01" if 0 < value < 0.005 else f"{value:.2f}"


def _scaled(value: float, units: dict[str, float]) -> str:
    """Return the value in the largest unit of which it is 1 or more, with 3 digits or 1 decimal."""
    if not value:
        return f"0 {next(reversed(units))}".strip()
    name, size = next(((n, s) for n, s in units.items() if value >= s), list(units.items())[-1])
    scaled = value / size
    return f"{scaled:.{2 if scaled < 10 else 1}f} {name}".strip()

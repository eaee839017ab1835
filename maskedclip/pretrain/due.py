"""What is due after a step: pure functions of the step, so that a restart changes nothing."""

from maskedclip.config import Config


def due(step: int, every: int, total: int) -> bool:
    """Return whether something done each `every` steps, and at the end, is due after `step`."""
    return (step + 1) % every == 0 or step + 1 == total


class Looks:
    """What is measured after a step: with a row, as the host waits for the device there anyway."""

    def __init__(self, config: Config, step: int, total: int) -> None:
        log, every = config.log, config.engine.log_every
        self.row = due(step, every, total)

        def first_row_since(interval: int) -> bool:
            """Return whether this row is the first since a multiple of an interval, or the last."""
            now = step + 1
            return self.row and interval > 0 and (now % interval < every or now == total)

        self.features = first_row_since(log.health_every)
        pictures = config.engine.pictures_every
        self.pictures = pictures > 0 and due(step, pictures, total)
        self.shares = first_row_since(log.shares_every)
        self.probe = bool(log.probe) and first_row_since(log.probe_every)

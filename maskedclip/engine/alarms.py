"""Alarms: signs in the rows of metrics.jsonl that a run is not healthy, and what to do.

Each is a rule on the rows up to now, so that a start that reads the rows of an earlier one goes on
where that stopped. It is said once, until it has cleared. The limits were chosen on healthy runs
of phantoms (docs/monitoring.md).
"""

from collections import deque
from collections.abc import Mapping
from statistics import fmean, median
from typing import Any, NamedTuple

Row = Mapping[str, Any]
_KEPT = 40  # rows that the rules look back on
_BEGINNING, _RECENT, _BEFORE = 3, 5, 20  # rows: of the beginning, of now, of what is usual
_COLLAPSED_RANK = 1.25  # RankMe; 1: all features are one
_COLLAPSED_SPREAD = 0.3  # of unit rows; a constant would reach a cosine of 0.95 to them
_CONSTANT = 0.99  # cosine to the teacher that a constant reaches
_CLAMPED = 99.9  # logit scale, of 100
_LEAST_FALL = 0.01  # of the loss since the beginning, as a share of it; to clear twice as much
_LEAST_STEPS = 200  # before a loss has to have fallen
_SPIKE = 8.0  # deviations of a loss; _LEAST_SPIKE as a share of it
_LEAST_SPIKE, _NORM_SPIKE = 0.2, 10.0  # _NORM_SPIKE times the usual and the last norms
_VANISHED = 1e-3  # of the loss at the beginning
_STARVED = 0.3  # share of the time


class Alarm(NamedTuple):
    """A sign, with its numbers, and what to do about it."""

    name: str
    what: str
    remedy: str

    @property
    def line(self) -> str:
        return f"{self.what}; {self.remedy} (docs/monitoring.md#{self.name.replace(' ', '-')})"


class Alarms:
    """The alarms of a run, row by row."""

    def __init__(self, *, warmup: float, least_share: float) -> None:
        """Steps of warm-up come before a loss has to fall; least_share is a term's."""
        self._warmup, self._least_share = warmup, least_share
        self._rows: deque[Row] = deque(maxlen=_KEPT)
        # what the run began with; DINO's loss may rise, by an entropy that no student lowers
        self._first: dict[str, list[float]] = {"loss": [], "kl_dino": []}
        self._on: dict[str, Alarm] = {}
        self._values: dict[str, deque[float]] = {}  # the last of each key that is not in all rows

    def check(self, row: Row) -> list[Alarm]:
        """Return the alarms that this row raises, those that are on already left out."""
        for key, value in row.items():
            if isinstance(value, (int, float)):
                self._values.setdefault(key, deque(maxlen=_KEPT)).append(value)
        for key, first in self._first.items():
            if len(first) < _BEGINNING and key in row:
                first.append(row[key])
        found = {
            alarm.name: alarm
            for alarm in (
                self._collapse(), self._teacher(), *self._shares(), self._temperature(),
                self._not_falling(row), self._spike(row), self._starvation(),
            )
            if alarm is not None
        }  # fmt: skip
        self._rows.append(row)
        new = [alarm for name, alarm in found.items() if name not in self._on]
        self._on = found
        return new

    def _last(self, key: str, count: int = 1) -> list[float]:
        """Return the last `count` values of a key; nothing where there are fewer."""
        values = list(self._values.get(key, ()))[-count:]
        return values if len(values) == count else []

    def _collapse(self) -> Alarm | None:
        """Of features by their rank, or of DINO's [CLS] by its spread, which goes first there."""
        rank, spread = self._last("feature_rank", 2), self._last("cls_std", _RECENT)
        if rank and max(rank) < _COLLAPSED_RANK:
            sign = f"effective rank {rank[-1]:.2f}"
        elif spread and max(spread) < _COLLAPSED_SPREAD:
            sign = f"spread of [CLS] {spread[-1]:.2f}"
        else:
            return None
        return Alarm(
            "collapse", f"the features of all images are nearly one ({sign})",
            "look at the pictures of what is trained on; lower optim.base_lr or lengthen "
            "optim.warmup_epochs, and begin anew",
        )  # fmt: skip

    def _teacher(self) -> Alarm | None:
        cosine = self._last("target_cosine_constant", 2)
        if not cosine or min(cosine) <= _CONSTANT:
            return None
        return Alarm(
            "teacher near constant",
            f"a constant would reach a cosine of {cosine[-1]:.3f} to the teacher's features: "
            f"loss_mfd teaches nothing",
            "raise loss.clip, which gives the bridge its meaning, or lower loss.mfd",
        )

    def _shares(self) -> list[Alarm]:
        """Return an alarm for each term that two looks in a row found without weight."""
        alarms = []
        for key in self._values:
            name, _, rest = key.partition("/")
            term, _, part = rest.partition("/")
            share = self._last(key, 2) if (name, part) == ("gradient_share", "encoder") else []
            if share and max(share) < self._least_share:
                alarms.append(
                    Alarm(
                        f"gradient share of {term}",
                        f"{term} has {share[-1]:.2%} of the encoder's gradient: it teaches it "
                        f"next to nothing",
                        f"raise the weight of {term}, or leave it out by 0 and save its time",
                    )
                )
        return alarms

    def _temperature(self) -> Alarm | None:
        scale = self._last("logit_scale", _BEGINNING)
        if not scale or min(scale) < _CLAMPED:
            return None
        return Alarm(
            "tau at its clamp", "the contrast's 1 / tau is at its clamp of 100",
            "captions may be told apart by their text alone, or repeat: look at the retrieval, "
            "enlarge the batch, or lower the learning rate",
        )  # fmt: skip

    def _not_falling(self, row: Row) -> Alarm | None:
        """Of what has been trained for twice its warm-up, 200 steps and 25 rows."""
        key, words = "loss", "the loss"
        if self._first["kl_dino"]:
            key, words = "kl_dino", "DINO's divergence from the teacher"
        recent = self._last(key, _RECENT)
        least_steps = max(_LEAST_STEPS, 2 * self._warmup)
        ready = len(self._rows) >= _RECENT + _BEFORE and row.get("step", 0) >= least_steps
        if not recent or not ready:
            return None
        first = fmean(self._first[key])
        least = _LEAST_FALL * (2 if "loss not falling" in self._on else 1)
        if fmean(recent) < first - least * abs(first):
            return None
        return Alarm(
            "loss not falling",
            f"{words} is {fmean(recent):.4g}, and was {first:.4g} at the beginning",
            "lower optim.base_lr tenfold; where that changes nothing, look at the pictures of "
            "what is trained on",
        )

    def _spike(self, row: Row) -> Alarm | None:
        before = [one["loss"] for one in self._rows if "loss" in one][-_BEFORE:]
        if len(before) < _BEFORE or "loss" not in row:
            return None
        usual = median(before)
        if max(abs(usual), abs(row["loss"])) < _VANISHED * abs(fmean(self._first["loss"])):
            return None  # what is learnt by heart leaves rounding alone
        deviation = max(median([abs(value - usual) for value in before]), 1e-12)
        limit = usual + max(_SPIKE * deviation, _LEAST_SPIKE * abs(usual))
        norms = [one["grad_norm"] for one in self._rows if "grad_norm" in one][-_BEFORE:]
        norm = row.get("grad_norm", 0.0)
        # a jump: where a plateau ends norms rise for some rows, while the loss falls
        usual_norm = max(median(norms), *norms[-_BEGINNING:]) if norms else 0.0
        if row["loss"] <= limit and not 0 < _NORM_SPIKE * usual_norm < norm:
            return None
        return Alarm(
            "spike",
            f"the loss is {row['loss']:.4g} (usual: {usual:.4g}), the gradient norm {norm:.3g} "
            f"(usual: {usual_norm:.3g})",
            "where it does not come down by itself set optim.clip_norm=1, or engine.spike=10 with "
            "engine.on_fault=skip, and go on from a checkpoint before it",
        )

    def _starvation(self) -> Alarm | None:
        waits = self._last("data_wait", _RECENT)
        if not waits or min(waits) < _STARVED:
            return None
        return Alarm(
            "starvation", f"{waits[-1]:.0%} of the time is waiting for data",
            "give more cores (--cpus_per_rank, data.threads), copy the tars to the node's disk "
            "(data.stage), or see docs/stream.md",
        )  # fmt: skip

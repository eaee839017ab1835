"""What became of every tensor when weights were loaded, and when that is too little."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

logger = logging.getLogger(__name__)
_LINES = 12  # groups of names that are listed
_COUNTERS = ".num_batches_tracked"  # of a ResNet: older files have none, and nothing reads them
_FRESH = ("head.", "fc_norm.", "fc.")  # made anew for each task


@dataclass(frozen=True)
class LoadReport:
    """What became of the encoder's parameters."""

    source: str
    matched: list[str]
    missing: list[str]  # in the network, not in the file: left at their first values
    unexpected: list[str]  # in the file, not in the network: not used
    share: float  # of the network's values (a fresh head left out) that the file gave
    reshaped: list[str] = field(default_factory=list)  # resampled to another grid; of `matched`
    format: str = ""  # name of the WeightFormat
    trained_on: tuple[str, ...] = ()  # datasets that they were trained on

    def __str__(self) -> str:
        if not (self.matched or self.missing):
            return "an untrained encoder"
        format = f" ({self.format})" if self.format else ""
        resampled = f"; resampled {', '.join(self.reshaped)}" if self.reshaped else ""
        return (
            f"{self.source}{format}: {len(self.matched)} tensors loaded, {self.share:.1%} of the "
            f"network; missing {_short(self.missing)}; unexpected {_short(self.unexpected)}"
            f"{resampled}"
        )

    def table(self) -> str:
        """Return the same as lines, for a log."""
        lines = [str(self)]
        for word in ("missing", "unexpected", "reshaped", "matched"):
            groups = grouped(getattr(self, word))
            lines += [f"  {word:10} {line}" for line in groups[:_LINES]]
            if len(groups) > _LINES:
                lines.append(f"  {word:10} and {len(groups) - _LINES} more kinds")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """Return what is kept in a run."""
        return {
            "source": self.source, "form": self.format, "share": self.share,
            "matched": len(self.matched), "matched_names": grouped(self.matched),
            "reshaped": self.reshaped,
            "missing": grouped(self.missing), "unexpected": grouped(self.unexpected),
            "saw": list(self.trained_on),
        }  # fmt: skip


def grouped(names: Iterable[str]) -> list[str]:
    """Return names with their numbers left out, and how many there are of each."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "N", name) for name in names)
    return [name if count == 1 else f"{name} ({count})" for name, count in counts.items()]


def load_into(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    format: str,
    trained_on: tuple[str, ...],
    others: list[str],
    reshaped: list[str],
    keep: tuple[str, ...] = (),
) -> LoadReport:
    """Load the tensors into a network, its head left fresh; return what became of each.

    Args:
        others: what else the file holds.
        reshaped: names of tensors that were resampled.
        keep: beginnings of names that are loaded here, though they are a fresh head's elsewhere.

    Raises ValueError, and logs the table, where a part of the network is missing, or where some
    are of blocks that it does not have.
    """
    wanted = network.state_dict()
    fresh = {name for name in wanted if name.startswith(_FRESH) and not name.startswith(keep)}
    fits = {
        name: tensor
        for name, tensor in tensors.items()
        if name in wanted and name not in fresh and tensor.shape == wanted[name].shape
    }
    encoder = {name: tensor.numel() for name, tensor in wanted.items() if name not in fresh}
    report = LoadReport(
        source=source,
        matched=sorted(fits),
        missing=sorted(set(encoder) - set(fits)),
        unexpected=sorted([*(set(tensors) - set(fits)), *others]),
        share=sum(encoder[name] for name in fits) / sum(encoder.values()),
        reshaped=reshaped,
        format=format,
        trained_on=trained_on,
    )
    strange = sorted(name for name in tensors if name.startswith("blocks.") and name not in fits)
    absent = [name for name in report.missing if not name.endswith(_COUNTERS)]
    if absent or strange:
        logger.error("%s", report.table())
        share = f"{min(report.share, 0.999):.1%}" if absent else "all"
        raise ValueError(
            f"{source}: gives {share} of {format or 'the encoder'} and "
            f"{len(strange)} tensors of blocks that the network lacks, the first "
            f"{(absent or strange)[0]}; required are all and none: it is damaged, or of another "
            f"format"
        )
    network.load_state_dict(fits, strict=False)
    return report


def load_all(network: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Load every tensor of a network of ours; ValueError where one is missing, or not of it."""
    wanted = network.state_dict()
    fits = {k for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    wrong = sorted((wanted.keys() | tensors.keys()) - fits)
    if wrong:
        raise ValueError(
            f"{source}: {len(wrong)} tensors are missing or of another network than its header "
            f"says, the first {wrong[0]}: damaged or cut; copy it again, or export it anew"
        )
    network.load_state_dict(dict(tensors))


def _short(names: list[str]) -> str:
    groups = grouped(names)
    more = f" and {len(groups) - 4} more kinds" if len(groups) > 4 else ""
    return (", ".join(groups[:4]) + more) or "none"

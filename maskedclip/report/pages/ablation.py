"""Which row of Table 2 a method is, by the configuration that its weights were pre-trained with."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from maskedclip.report.pages.tables import Block, Line, Table

# (bridge, distillation) -> what the paper calls it
ROWS = {
    (False, False): "MAE+CLIP",
    (True, False): "+Bridge Transformer",
    (True, True): "MaskedCLIP",
}
_FREE = (
    "name",
    "out",
    "model.bridge_depth",
    "loss.mfd",
    "after",
    "engine",
    "model.feature_decoder",
)


class Ablated(NamedTuple):
    """Whether a pre-training had the bridge transformer and masked feature distillation."""

    bridge: bool
    distillation: bool


def ablated(config: Mapping[str, Any]) -> Ablated | None:
    """Return the parts that a pre-training had; None where it is no row of Table 2.

    Args:
        config: config.json of the pre-training.
    """
    model, loss = config.get("model"), config.get("loss")
    if not isinstance(model, Mapping) or not isinstance(loss, Mapping):
        return None
    if not loss.get("mim") or not loss.get("clip"):
        return None
    found = Ablated(bool(model.get("bridge_depth")), bool(loss.get("mfd")))
    return found if found in ROWS else None


def table_2(table: Table, parts: Mapping[str, Ablated]) -> Table:
    """Return the ablation rows of a table, in the paper's order; 10 % of labels where there."""
    budgets = [block.budget for block in table.blocks]
    chosen = [0.1] if 0.1 in budgets and _any(table, 0.1, parts) else budgets
    blocks = []
    for block in table.blocks:
        lines = _lines(block, parts) if block.budget in chosen else ()
        if lines:
            blocks.append(Block(block.budget, lines))
    return Table(table.columns, tuple(blocks), {})


def _any(table: Table, budget: float, parts: Mapping[str, Ablated]) -> bool:
    lines = next(block.lines for block in table.blocks if block.budget == budget)
    return any(line.method in parts for line in lines)


def _lines(block: Block, parts: Mapping[str, Ablated]) -> tuple[Line, ...]:
    found = []
    for kind, name in ROWS.items():
        mine = [line for line in block.lines if parts.get(line.method) == kind]
        for line in mine:
            label = name if len(mine) == 1 else f"{name} ({line.method})"
            found.append(replace(line, label=label, checks=kind))
    return tuple(found)


def absent(parts: Mapping[str, Ablated]) -> list[str]:
    """Return the rows of Table 2 that no method is."""
    return [name for kind, name in ROWS.items() if kind not in parts.values()]


def differences(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the fields in which the pre-trainings differ besides those that Table 2 is about.

    Args:
        configs: the values of each method's pre-training by dotted name.
    """
    flat = list(configs.values())
    names = sorted({name for fields in flat for name in fields})
    return [
        name
        for name in names
        if not name.startswith(_FREE) and any(f.get(name) != flat[0].get(name) for f in flat[1:])
    ]

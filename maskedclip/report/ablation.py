"""Table 2, the ablation: its rows are recognised by the configuration of the pre-training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from maskedclip.config import flat
from maskedclip.report.pages.tables import LabelBlock, Line, Table, tabled
from maskedclip.report.repeats import differing, made, pretraining
from maskedclip.report.result import Result

# (bridge, distillation) -> the paper's name
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


class Components(NamedTuple):
    """Whether a pre-training had the bridge transformer and masked feature distillation."""

    bridge: bool
    distillation: bool


def ablation(first: Table) -> tuple[Table, list[str]]:
    """Return Table 2 of the methods in Table 1, and a line for what is missing or not the same.

    Pre-trainings of one method that differ in their seed alone are its repeats.
    """
    components: dict[str, Components] = {}
    configs: dict[str, dict[str, Any]] = {}
    remarks: list[str] = []
    for method, runs in _by_method(first).items():
        sources = dict(source for run in runs if (source := pretraining(run.directory)))
        if unlike := differing(filter(None, map(made, sources))):
            remarks.append(
                f"{method}: its runs start from {len(sources)} pre-trainings that differ in "
                f"{', '.join(unlike)}; left out."
            )
            continue
        for config in list(sources.values())[:1]:
            own = components_of(config)
            if own:
                components[method], configs[method] = own, flat(config)
    missing = absent(components)
    if missing:
        remarks.append(
            f"Not measured: {', '.join(missing)}. A method is recognised by model.bridge_depth and "
            f"loss.mfd in the config.json of the pre-training that its runs start from."
        )
    if others := differences(configs):
        remarks.append(f"These pre-trainings also differ in {', '.join(others)}.")
    return table_2(first, components), remarks


def _by_method(first: Table) -> dict[str, list[Result]]:
    runs: dict[str, list[Result]] = {}
    for block in first.blocks:
        for line in block.lines:
            for column in first.columns:
                runs.setdefault(line.method, []).extend(line.cells[column, tabled(column)[0]].runs)
    return runs


def components_of(config: Mapping[str, Any]) -> Components | None:
    """Return the components that a pre-training had; None where it is no row of Table 2.

    Args:
        config: config.json of the pre-training.
    """
    model, loss = config.get("model"), config.get("loss")
    if not isinstance(model, Mapping) or not isinstance(loss, Mapping):
        return None
    if not loss.get("mim") or not loss.get("clip"):
        return None
    own = Components(bool(model.get("bridge_depth")), bool(loss.get("mfd")))
    return own if own in ROWS else None


def table_2(first: Table, components: Mapping[str, Components]) -> Table:
    """Return the ablation rows of a table, in the paper's order; of 10 % of labels if possible."""
    blocks = []
    for block in first.blocks:
        lines = _lines(block, components)
        if lines:
            blocks.append(LabelBlock(block.budget, lines))
    tenth = [block for block in blocks if block.budget == 0.1]
    return Table(first.columns, tuple(tenth or blocks), {}, first.protocol)


def _lines(block: LabelBlock, components: Mapping[str, Components]) -> tuple[Line, ...]:
    lines = []
    for row, name in ROWS.items():
        own = [line for line in block.lines if components.get(line.method) == row]
        for line in own:
            label = name if len(own) == 1 else f"{name} ({line.method})"
            lines.append(replace(line, label=label, checks=row))
    return tuple(lines)


def absent(components: Mapping[str, Components]) -> list[str]:
    """Return the rows of Table 2 that no method is."""
    return [name for row, name in ROWS.items() if row not in components.values()]


def differences(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the fields in which the pre-trainings differ besides those that Table 2 is about.

    Args:
        configs: the values of each method's pre-training by dotted name.
    """
    fields: Sequence[Mapping[str, Any]] = list(configs.values())
    names = sorted({name for own in fields for name in own})
    return [
        name
        for name in names
        if not name.startswith(_FREE)
        and any(own.get(name) != fields[0].get(name) for own in fields)
    ]

"""A plan in words and columns."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from maskedclip.command import one_line_errors, read_config
from maskedclip.plan.cost import FULL, USAGE, Plan, PlanConfig, plan

_PARTS = ("E_I", "D_I", "B", "D_F", "E_T", "projections", "teacher")
_TIGHT = 0.97  # share of a card's memory beyond which CUDA's own cannot find room


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out tools/plan.py; mistakes end in one line and exit code 2."""
    config, options, *_ = read_config(USAGE, PlanConfig(), "maskedclip_vitl", arguments)
    values = asdict(options)
    as_json = values.pop("json")
    with one_line_errors():
        planned = plan(config, **values)
        sys.stdout.write(json.dumps(asdict(planned)) + "\n" if as_json else report(planned))


def report(plan: Plan) -> str:
    """Return the plan as a table for people, ending in a line break."""
    return "\n".join([*_cost_by_part(plan), "", *_whole_run(plan), "", *_notes(plan)]) + "\n"


def _cost_by_part(plan: Plan) -> list[str]:
    kept = plan.memory.by_part
    lines = [
        f"{plan.run} on {plan.nodes} x {plan.gpus} {plan.gpu}, "
        f"{plan.load.paired} + {plan.load.images - plan.load.paired} images a GPU"
        + (f" in {plan.parts} parts" if plan.parts > 1 else ""),
        "",
        "part         parameters   TFLOP a step   GB kept a GPU",
    ]
    for name in (part for part in _PARTS if plan.parameters[part]):
        work, bytes_kept = plan.flops.get(name), kept.get(name)
        lines.append(
            f"{name:12} {_millions(plan.parameters[name]):>10}   {_or_blank(work, 1e12):>12}"
            f"   {_or_blank(None if name == 'teacher' else bytes_kept, 1e9):>13}"
        )
    trained = sum(plan.parameters.values()) - plan.parameters["teacher"]
    activations = sum(kept.get(name, 0.0) for name in _PARTS if name != "teacher")
    lines.append(
        f"{'all trained':12} {_millions(trained):>10}   {sum(plan.flops.values()) / 1e12:12.1f}"
        f"   {activations / 1e9:13.2f}"
    )
    lines += ["", f"memory of a GPU at its fullest, {plan.memory.when}, in GB"]
    held_as = {"teacher": "teacher (shards)"}
    other = {k: v for k, v in kept.items() if k not in _PARTS or k == "teacher"}
    lines.append(f"  {'activations':28} {activations / 1e9:8.2f}")
    lines += [f"  {held_as.get(name, name):28} {size / 1e9:8.2f}" for name, size in other.items()]
    lines.append(
        f"  {'all':28} {plan.memory.total / 1e9:8.2f} of {plan.usable_bytes / 1e9:.1f}"
        f" ({plan.memory.total / plan.usable_bytes:.0%}): {_verdict(plan)}"
    )
    return lines


def _verdict(plan: Plan) -> str:
    if plan.fits:
        return "fits"
    fixes = "more GPUs, --optim.accumulate=2 or --engine.activation_checkpointing=true"
    if plan.memory.total <= _TIGHT * plan.usable_bytes:
        return f"TIGHT, over {FULL:.0%}: may run out; safer with {fixes}"
    return f"DOES NOT FIT; use {fixes}"


def _whole_run(plan: Plan) -> list[str]:
    world = plan.nodes * plan.gpus
    paired, unpaired = plan.largest
    rows = {
        "largest batch that fits": f"{paired} + {unpaired} images a GPU",
        **{f"{name} a step": f"{size / 1e9:.2f} GB a GPU" for name, size in plan.traffic.items()},
        "exchange, nothing hidden": f"{plan.exchange_s:.2f} s a step",
        "done twice to save memory": f"{plan.flops_again / 1e12:.1f} TFLOP a step",
        "a step": f"{plan.step_s:.2f} s at {plan.mfu:.0%} of the matrix rate",
        "the loader must bring": f"{plan.images_per_s:.0f} images/s, "
        f"{plan.images_per_s / world:.0f} a GPU",
        "samples": f"{plan.images[0]:,} paired, {plan.images[1]:,} unpaired",
        "length": f"{plan.steps:,} steps, {plan.epochs:.4g} epochs",
        "time": f"{plan.hours:.1f} hours, {plan.gpu_hours:.0f} GPU-hours",
        "CO2e": f"{plan.kg_co2e:.0f} kg",
        "a checkpoint": f"{plan.checkpoint_bytes / 1e9:.2f} GB",
        "disk, at most": f"{plan.disk_bytes / 1e9:.1f} GB with exported weights",
    }
    if plan.snapshot_bytes:
        rows["host memory while saving"] = f"{plan.snapshot_bytes / 1e9:.1f} GB a node"
    return [f"{name:36} {value}" for name, value in rows.items()]


def _notes(plan: Plan) -> list[str]:
    return ["assumed", *(f"  {note}" for note in plan.notes)]


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _or_blank(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.2f}"

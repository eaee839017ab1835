"""Which fields make a run another one, and the command with which people go on who change one."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskedclip.config import Config, LaunchConfig, flat, load, override
from maskedclip.data.captions import TEMPLATE
from maskedclip.models.checkpoints.files import MODEL
from maskedclip.recipes import RECIPES

# fields with no effect on what is learnt, or named by the directory
_FREE = (
    "name", "out", "i_trust_this_directory", "engine.", "after.", "log.", "optim.accumulate",
    "data.readers", "data.threads", "data.prefetch", "data.max_lost", "data.draw_phantoms",
    "data.stage",
)  # fmt: skip
_DATASETS = ("data.paired", "data.unpaired", "data.leave_out_tests_of")
_LENGTH = {"optim.steps", "optim.epochs", "optim.warmup_epochs"}
_SHOWN = 4  # fields in a message


def learnt(config: Config) -> dict[str, Any]:
    """Return the fields that decide what a pre-training learns, datasets by their names."""
    fields = {k: v for k, v in flat(asdict(config)).items() if not k.startswith(_FREE)}
    for name in _DATASETS:
        fields[name] = tuple(Path(directory).name for directory in fields[name])
    fields["optim.layer_decay"] = config.layer_decay
    # runs from before it could be empty have the usual one, which meant the same
    fields["data.caption_template"] = config.data.caption_template or TEMPLATE
    return fields


def refuse_another(config: Config) -> None:
    """Raise ValueError where the directory holds a run with which this one has not all in common.

    It says which fields differ, what they were, and how to go on.
    """
    path = config.directory / "config.json"
    if not path.exists():
        return
    before = load(path, Config)
    old, new = learnt(before), learnt(config)
    changed = [name for name in new if old[name] != new[name]]
    if not changed:
        return
    shown = [f"{name} {_text(old[name])}, now {_text(new[name])}" for name in changed[:_SHOWN]]
    more = f" and {len(changed) - _SHOWN} more fields" if len(changed) > _SHOWN else ""
    what = f"{config.directory} holds a run with {'; '.join(shown)}{more}"
    if set(changed) <= _LENGTH and _is_longer(before, config):
        raise ValueError(
            f"{what}: its learning rate has ended with its length; {_longer(before, config)}"
        )
    raise ValueError(
        f"{what}; use another --name, and --init_from={shlex.quote(str(config.directory))} to "
        f"begin from its weights"
    )


def _is_longer(before: Config, config: Config) -> bool:
    ours, theirs = config.optim, before.optim
    if ours.steps and theirs.steps:
        return ours.steps > theirs.steps
    return not ours.steps and not theirs.steps and ours.epochs > theirs.epochs


def _longer(before: Config, config: Config) -> str:
    """Return how a run that has ended, or is to end, is trained on."""
    run = config.directory
    changes: dict[str, Any] = {"init_from": str(run)}
    if before.layer_decay != override(config, changes).layer_decay:
        changes["optim.layer_decay"] = before.layer_decay
    if config.optim.steps:
        changes["optim.steps"] = config.optim.steps - before.optim.steps
        name = f"{config.name}-{config.optim.steps}steps"
    else:
        epochs = config.optim.epochs - before.optim.epochs
        share = before.optim.warmup_epochs / before.optim.epochs
        changes |= {"optim.epochs": epochs, "optim.warmup_epochs": round(share * epochs, 6)}
        name = f"{config.name}-{config.optim.epochs:g}epochs"
    command = command_of(override(config, changes | {"name": name}))
    if (run / MODEL).is_file():
        return f"go on from its weights, with a warm-up of their own: {command}"
    return f"let it end as it was begun, then go on from its weights: {command}"


def command_of(config: Config) -> str:
    """Return a command that begins a run of this configuration, as it is pasted into a shell.

    It names the recipe that differs least, and what jobs/launch.json says of an earlier run.
    """
    ours = flat(asdict(config))
    flags_of = {name: _flags(ours, flat(asdict(recipe()))) for name, recipe in RECIPES.items()}
    recipe = min(flags_of, key=lambda name: len(flags_of[name]))
    begun = Path(config.init_from or config.directory) / "jobs" / "launch.json"
    words = ["python", "-m", "maskedclip.pretrain", recipe, *flags_of[recipe]]
    if begun.is_file():
        launch = override(LaunchConfig(), flat(json.loads(begun.read_text("utf-8"))))
        words[1:3] = ["launchers/submit_pretrain.py"]
        words += _flags(asdict(launch), asdict(LaunchConfig()))
    return shlex.join(words)


def _flags(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    flags = []
    for name, value in ours.items():
        if value == theirs[name]:
            continue
        if name in ("sbatch", "setup"):  # each is one item, whatever commas are in it
            flags += [f"--{name}={item}" for item in value]
        else:
            flags.append(f"--{name}={_text(value)}")
    return flags


def _text(value: Any) -> str:
    """Return a value as it is written behind a flag."""
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)

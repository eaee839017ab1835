"""Check a machine before a run: every check that fails says how to fix it.

    python tools/doctor.py [RECIPE] [--nodes N --gpus N] [--card a100-80] [--json]
        [--out DIR] [--SECTION.FIELD=VALUE ...]

Without RECIPE the machine alone is checked; with one also its shards, text tower, and its cost
against the memory and the disk. On a cluster run it on the login node, and once in a job. Nothing
is left behind: the files that test --out are removed. Exit code 1 where a check failed.
"""

import json
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.command import one_line_errors, read_config, takes_colours
from maskedclip.config import Config
from maskedclip.doctor import filesystem, gpus, machine, run_inputs, slurm, torch_probe
from maskedclip.doctor.outcome import Outcome, not_applicable
from maskedclip.next_step import next_lines

USAGE = __doc__ or ""
ROOT = Path(__file__).resolve().parents[2]
_COLOURS = {"ok": "32", "warning": "33", "failed": "31;1", "not applicable": "2"}
_DEFAULT_GPU = "a100-80"


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """For which run the machine is checked."""

    nodes: int = 1
    gpus: int | None = None  # a node; unset: those that are here
    card: str = ""  # of the nodes, where none is here; tools/plan.py has the names
    json: bool = False  # one JSON object instead of lines

    def __post_init__(self) -> None:
        if self.nodes < 1 or (self.gpus or 0) < 0:
            raise ValueError(f"nodes {self.nodes}, gpus {self.gpus}: at least 1, and at least 0")


class Check(NamedTuple):
    """One check and its outcome."""

    name: str
    state: str
    message: str
    fix: str
    seconds: float


class Answers(NamedTuple):
    """Answers that several checks use; each may take seconds to come."""

    listed: list[gpus.ListedGpu]
    complaint: str  # of nvidia-smi
    seen: dict[str, Any]  # by torch
    cluster: slurm.Cluster


Judge = Callable[[], Outcome]


def examine(config: Config, named: str, options: DoctorConfig) -> list[Check]:
    """Return every check's outcome, in their order.

    Checks that need no answer of torch, SLURM or nvidia-smi run while those are waited for.

    Args:
        named: the recipe asked for with its changes, as on a command line; or empty.
    """
    recipe = config if named else None
    with ThreadPoolExecutor(8) as pool:
        cluster = pool.submit(slurm.ask)
        listed = pool.submit(gpus.list_gpus)
        seen = pool.submit(lambda: torch_probe.ask(_request(recipe, options, listed.result()[0])))
        early = [
            (name, pool.submit(_timed, judge)) for name, judge in _local(config, recipe, options)
        ]
        start = time.perf_counter()
        answers = Answers(*listed.result(), seen.result(), cluster.result())
        waited = time.perf_counter() - start
        late = _of_answers(config, recipe, options, answers, named)
        pending: list[tuple[str, Future[tuple[Outcome, float]]]] = [
            *early, *((name, pool.submit(_timed, judge)) for name, judge in late)
        ]  # fmt: skip
        checks = [Check(name, *done.result()[0], done.result()[1]) for name, done in pending]
    # the time of torch, nvidia-smi and SLURM counts for the first check that waits for them
    return [c._replace(seconds=waited) if c.name == "torch loads" else c for c in checks]


def _timed(judge: Judge) -> tuple[Outcome, float]:
    start = time.perf_counter()
    return judge(), time.perf_counter() - start


def _request(
    recipe: Config | None, options: DoctorConfig, listed: list[gpus.ListedGpu]
) -> dict[str, Any]:
    """Return what the probe is to plan: nothing without a recipe."""
    if recipe is None:
        return {}
    name = gpus.planned_name(listed[0].name) if listed else ""
    count = options.gpus or len(listed) or 1
    return {"config": asdict(recipe), "nodes": options.nodes, "gpus": count,
            "gpu": options.card or name or _DEFAULT_GPU}  # fmt: skip


def _local(config: Config, recipe: Config | None, options: DoctorConfig) -> list[tuple[str, Judge]]:
    """Return the checks that ask neither torch nor SLURM nor nvidia-smi."""
    wanted, requirements = machine.declared(ROOT)
    mounts, nodes = Path("/proc/self/mounts").read_text(), options.nodes
    out = filesystem.existing(Path(config.out))
    devices = [name for _, name in socket.if_nameindex()]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        ("Python", partial(machine.python, platform.python_version(), wanted)),
        ("packages", partial(machine.packages, requirements)),
        ("TensorBoard", machine.tensorboard),
        ("environment: shared", partial(filesystem.shared, Path(sys.prefix), mounts, nodes,
                                        "the environment (venv)")),
        ("/dev/shm", partial(machine.shared_memory, Path("/dev/shm"))),
        ("open files", partial(machine.open_files, files, run_inputs.shard_count(recipe))),
        ("host name", partial(machine.host_name, socket.gethostname(), nodes)),
        ("network devices", partial(machine.network_devices, devices, os.environ, nodes)),
        ("--out: rename", partial(filesystem.rename, out)),
        ("--out: locks", partial(filesystem.locks, out)),
        ("--out: shared", partial(filesystem.shared, Path(config.out), mounts, nodes, "--out")),
        ("shards", partial(run_inputs.shards, recipe)),
        ("shards: test images", partial(run_inputs.test_images, recipe)),
        ("shards: shared", partial(run_inputs.file_systems, recipe, mounts, nodes)),
    ]  # fmt: skip


def _of_answers(
    config: Config, recipe: Config | None, options: DoctorConfig, answers: Answers, named: str
) -> list[tuple[str, Judge]]:
    """Return the checks of what torch, SLURM and nvidia-smi answered."""
    listed, seen, cluster = answers.listed, answers.seen, answers.cluster
    wanted = options.gpus if options.gpus is not None else len(listed)
    cost = seen.get("cost")
    disk = None if cost is None or "error" in cost else cost["disk"]
    why = "name a recipe to plan it" if recipe is None else "torch does not load, or not in time"
    fits: Judge = partial(gpus.fits, cost, why)
    if recipe is not None and not wanted and not options.card:
        fits = partial(not_applicable, "no GPU here; name the nodes': --gpus=4 --card=a100-80")
    out = filesystem.existing(Path(config.out))
    ranks = options.nodes * max(1, wanted)
    return [
        ("torch loads", partial(torch_probe.loads, seen)),
        ("GPUs", partial(gpus.present, listed, answers.complaint, options.gpus,
                         bool(cluster.config))),
        ("GPUs visible", partial(gpus.visible, listed, os.environ)),
        ("GPU driver", partial(gpus.driver, listed, seen)),
        ("GPU kernels", partial(gpus.kernels, seen, config.engine.precision)),
        ("GPU memory", fits),
        ("NCCL", partial(gpus.nccl, seen, options.gpus)),
        ("--out: space", partial(filesystem.room, out, disk, config.name)),
        ("batch size", partial(run_inputs.batch_split, recipe, ranks)),
        ("hub weights", partial(run_inputs.hub_weights, recipe, named)),
        ("SLURM", partial(slurm.commands, cluster)),
        ("SLURM: controller", partial(slurm.controller, cluster)),
        ("SLURM: requeue", partial(slurm.requeue, cluster)),
        ("SLURM: pre-emption", partial(slurm.preemption, cluster)),
        ("SLURM: GraceTime", partial(slurm.grace, cluster)),
        ("SLURM: arrays", partial(slurm.arrays, cluster)),
        ("SLURM: accounting", partial(slurm.accounting, cluster)),
    ]  # fmt: skip


def report(checks: list[Check], took_s: float, arguments: str, coloured: bool) -> str:
    """Return the checks as aligned lines, faults with their fixes, ending in what to do next.

    Args:
        arguments: the recipe, its changes, nodes and GPUs; "" where none are named.
    """
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        state = f"{check.state:14}"
        if coloured:
            state = f"\x1b[{_COLOURS[check.state]}m{state}\x1b[0m"
        lines.append(f"{check.name:{width}}  {state}  {check.message}")
        if check.fix:
            lines.append(f"{'':{width}}  {'':14}  fix: {check.fix}")
    counts = {state: sum(check.state == state for check in checks) for state in _COLOURS}
    slowest = max(checks, key=lambda check: check.seconds)
    shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines += [
        "",
        f"{len(checks)} checks in {took_s:.1f} s: {shown}; "
        f"the slowest: {slowest.name}, {slowest.seconds:.1f} s",
    ]
    command = f"python launchers/submit_pretrain.py {arguments or 'demo'} --dry_run"
    if counts["failed"]:
        lines.append("fix what failed, then check again")
        command = f"python tools/doctor.py {arguments}".strip()
    return "\n".join(lines) + "\n" + next_lines(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out tools/doctor.py; return 1 where a check failed, else 0."""
    start = time.perf_counter()
    config, options, recipe, changes = read_config(
        USAGE, DoctorConfig(), "maskedclip_vitl", arguments
    )
    named = f"{recipe} {changes}".strip() if recipe else ""
    with one_line_errors():
        checks = examine(config, named, options)
        took_s = time.perf_counter() - start
        if options.json:
            rows = [check._asdict() for check in checks]
            sys.stdout.write(json.dumps({"checks": rows, "seconds": took_s}) + "\n")
        else:
            asked = {"nodes": options.nodes, "gpus": options.gpus}
            usual = {"nodes": 1, "gpus": None}
            flags = [f"--{name}={value}" for name, value in asked.items() if value != usual[name]]
            written = " ".join([*([named] if named else []), *flags])
            sys.stdout.write(report(checks, took_s, written, takes_colours(sys.stdout)))
    return int(any(check.state == "failed" for check in checks))

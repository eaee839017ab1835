"""Look a machine over before a run is trusted to it: every check says how to mend what it finds.

    python tools/doctor.py [RECIPE] [--nodes N --gpus N] [--card a100-80] [--json]
        [--out DIR] [--SECTION.FIELD=VALUE ...]

Without RECIPE the machine alone is looked at; with one also its shards, text tower, and its cost
against the memory and the disk. On a cluster run it on the login node, and once in a job. Nothing
is left behind: the files that it tries --out with are removed. Exit code 1 where a check failed.
"""

import locale
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.config import Config
from maskedclip.doctor import filesystem as files
from maskedclip.doctor import gpus as gpus
from maskedclip.doctor import machine as machine
from maskedclip.doctor import run_inputs as run
from maskedclip.doctor import services as services
from maskedclip.doctor import slurm as slurm
from maskedclip.doctor import torch_probe as probe
from maskedclip.doctor import versions as versions
from maskedclip.doctor.finding import Finding, absent

USAGE = __doc__ or ""
ROOT = Path(__file__).resolve().parents[2]
_COLOURS = {"ok": "32", "warning": "33", "failed": "31;1", "not applicable": "2"}
_UNKNOWN_CARD = "a100-80"


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """For which run the machine is looked at."""

    nodes: int = 1
    gpus: int | None = None  # a node; unset: those that are here
    card: str = ""  # of the nodes, where none is here; tools/plan.py has the names
    json: bool = False  # one JSON object instead of lines

    def __post_init__(self) -> None:
        if self.nodes < 1 or (self.gpus or 0) < 0:
            raise ValueError(f"nodes {self.nodes}, gpus {self.gpus}: at least 1, and at least 0")


class Check(NamedTuple):
    """One check and what became of it."""

    name: str
    state: str
    found: str
    mend: str
    seconds: float


class World(NamedTuple):
    """What is asked once and used by several checks; each may take seconds."""

    cards: list[gpus.Card]
    complaint: str  # of nvidia-smi
    seen: dict[str, Any]  # by torch
    cluster: slurm.Cluster


Look = Callable[[], Finding]


def examine(config: Config, named: str, options: DoctorConfig) -> list[Check]:
    """Return every check's outcome, in their order; `named` is the recipe asked for, or empty.

    It may have changes after it, as on a command line. Checks that need no answer of torch, SLURM
    or nvidia-smi go on while those are waited for.
    """
    recipe = config if named else None
    with ThreadPoolExecutor(8) as pool:
        cluster = pool.submit(slurm.ask)
        cards = pool.submit(gpus.cards)
        seen = pool.submit(lambda: probe.ask(_request(recipe, options, cards.result()[0])))
        early = [
            (name, pool.submit(_timed, look)) for name, look in _alone(config, recipe, options)
        ]
        begun = time.perf_counter()
        world = World(*cards.result(), seen.result(), cluster.result())
        waited = time.perf_counter() - begun
        late = _asking(config, recipe, options, world, named)
        outcome: list[tuple[str, Future[tuple[Finding, float]]]] = [
            *early, *((name, pool.submit(_timed, look)) for name, look in late)
        ]  # fmt: skip
        checks = [Check(name, *got.result()[0], got.result()[1]) for name, got in outcome]
    # the time of torch, nvidia-smi and SLURM counts for the first check that waits for them
    return [c._replace(seconds=waited) if c.name == "torch loads" else c for c in checks]


def _timed(look: Look) -> tuple[Finding, float]:
    begun = time.perf_counter()
    return look(), time.perf_counter() - begun


def _request(
    recipe: Config | None, options: DoctorConfig, listed: list[gpus.Card]
) -> dict[str, Any]:
    """Return what the probe is to plan: nothing without a recipe."""
    if recipe is None:
        return {}
    here = gpus.card_of(listed[0].name) if listed else ""
    count = options.gpus or len(listed) or 1
    return {"config": asdict(recipe), "nodes": options.nodes, "gpus": count,
            "gpu": options.card or here or _UNKNOWN_CARD}  # fmt: skip


def _alone(config: Config, recipe: Config | None, options: DoctorConfig) -> list[tuple[str, Look]]:
    """Return the checks that ask neither torch nor SLURM nor nvidia-smi."""
    lines = versions.asked_for(ROOT)
    at_hand = {line.split(">")[0].split("<")[0].strip() for line in lines}
    mounts = Path("/proc/self/mounts").read_text()
    out, environment = files.existing(Path(config.out)), os.environ
    newest = max(path.stat().st_mtime for path in (ROOT / "maskedclip").rglob("*.py"))
    cores = [path.name for path in Path("/sys/class/infiniband").glob("*")]
    limit = partial(resource.getrlimit)
    encodings = {"files": locale.getpreferredencoding(False), "names": sys.getfilesystemencoding()}
    zone = machine.facts()
    return [
        ("Python", partial(versions.python, sys.version_info[:3])),
        ("packages", partial(versions.requirements, lines,
                             {name: versions.installed(name) for name in at_hand})),
        *((f"holes of {name}", partial(versions.holes, name, versions.installed(name)))
          for name in versions.CHECKED),
        ("place of Python", partial(files.shared, Path(sys.prefix), mounts, options.nodes,
                                    "the environment (venv)")),
        ("git", partial(versions.git, ROOT)),
        ("TensorBoard", services.tensorboard),
        ("port 6006", partial(services.port, 6006)),
        ("encoding", partial(versions.utf8, encodings)),
        ("environment", partial(versions.code_changes, environment)),
        ("host name", partial(machine.host_name, zone["host"], options.nodes)),
        ("network device", partial(machine.interfaces, services.devices(), environment,
                                   options.nodes)),
        ("/dev/shm", partial(machine.shared_memory, Path("/dev/shm"))),
        ("open files", partial(machine.open_files, limit(resource.RLIMIT_NOFILE),
                               run.shard_count(recipe))),
        ("locked memory", partial(machine.locked_memory, limit(resource.RLIMIT_MEMLOCK)[0], cores)),
        ("core files", partial(machine.core_files, limit(resource.RLIMIT_CORE)[0],
                               services.text_of(Path("/proc/sys/kernel/core_pattern")))),
        ("TMPDIR", partial(machine.temporary, Path(environment.get("TMPDIR") or "/tmp"))),
        ("clock", partial(machine.clock, time.time(), newest)),
        ("time zone", partial(machine.time_zone, environment.get("TZ"), zone["zone"])),
        ("--out: rename", partial(files.rename, out)),
        ("--out: fsync", partial(files.fsync, out)),
        ("--out: locks", partial(files.locks, out)),
        ("--out: clock", partial(files.skew, out)),
        ("--out: inodes", partial(files.inodes, out)),
        ("--out: place", partial(files.shared, Path(config.out), mounts, options.nodes, "--out")),
        ("shards", partial(run.data, recipe)),
        ("shards: place", partial(run.place, recipe, mounts, options.nodes)),
    ]  # fmt: skip


def _asking(
    config: Config, recipe: Config | None, options: DoctorConfig, world: World, named: str
) -> list[tuple[str, Look]]:
    """Return the checks on what torch, SLURM and nvidia-smi answered."""
    listed, seen, cluster = world.cards, world.seen, world.cluster
    wanted = options.gpus if options.gpus is not None else len(listed)
    ranks, cost = max(1, wanted), seen.get("cost")
    priced: dict[str, Any] = {} if cost is None or "error" in cost else cost
    sizes = [device["memory"] for device in seen.get("devices") or []]
    membership = services.text_of(Path("/proc/self/cgroup"))
    groups, count = Path("/sys/fs/cgroup"), os.cpu_count() or 1
    usable = min(len(os.sched_getaffinity(0)), machine.cpu_limit(membership, groups) or count)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    why = "name a recipe to count it" if recipe is None else "torch does not load"
    if recipe is not None and not wanted and not options.card:
        fits: Look = partial(absent, "no GPU here; name the nodes': --gpus=4 --card=a100-80")
    else:
        fits = partial(gpus.fits, cost, why, min(sizes, default=None))
    return [
        ("torch loads", partial(services.torch_loads, seen)),
        ("GPUs", partial(gpus.present, listed, world.complaint, options.gpus,
                         bool(cluster.config))),
        ("GPUs seen", partial(gpus.visible, listed, os.environ)),
        ("GPU driver", partial(gpus.driver, listed, seen)),
        ("GPU kernels", partial(gpus.kernels, seen, config.engine.precision)),
        ("GPU memory", fits),
        ("NCCL", partial(gpus.nccl, seen, options.gpus)),
        ("memory", partial(machine.memory, physical, machine.memory_limit(membership, groups),
                           ranks, priced.get("snapshot", 0.0) if wanted else 0.0)),
        ("processors", partial(machine.processors, count, usable, ranks, config.data.threads)),
        ("OMP_NUM_THREADS", partial(machine.omp_threads, os.environ.get("OMP_NUM_THREADS"),
                                    usable, ranks)),
        ("--out: room", partial(files.room, files.existing(Path(config.out)),
                                priced.get("disk"), config.name)),
        ("shards: ranks", partial(run.shares, recipe, options.nodes * ranks)),
        ("text and weights", partial(run.towers, recipe, named)),
        ("SLURM", partial(slurm.commands, cluster.commands)),
        ("SLURM: controller", partial(slurm.controller, cluster)),
        ("SLURM: version", partial(slurm.version, cluster.config)),
        ("SLURM: requeue", partial(slurm.requeue, cluster.config)),
        ("SLURM: pre-emption", partial(slurm.preemption, cluster.config, cluster.partitions)),
        ("SLURM: GraceTime", partial(slurm.grace, cluster.config, cluster.partitions)),
        ("SLURM: KillWait", partial(slurm.kill_wait, cluster.config)),
        ("SLURM: arrays", partial(slurm.arrays, cluster.config)),
        ("SLURM: accounting", partial(slurm.accounting, cluster)),
    ]  # fmt: skip


def report(checks: list[Check], took_s: float, launch: str, coloured: bool) -> str:
    """Return the checks as aligned lines, faults with their mends, ending in what to do next.

    Args:
        launch: the words of submit_pretrain for this run.
    """
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        state = f"{check.state:14}"
        if coloured:
            state = f"\x1b[{_COLOURS[check.state]}m{state}\x1b[0m"
        lines.append(f"{check.name:{width}}  {state}  {check.found}")
        if check.mend:
            lines.append(f"{'':{width}}  {'':14}  mend: {check.mend}")
    counts = {state: sum(check.state == state for check in checks) for state in _COLOURS}
    slowest = max(checks, key=lambda check: check.seconds)
    shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines += [
        "",
        f"{len(checks)} checks in {took_s:.1f} s: {shown}; "
        f"the slowest: {slowest.name}, {slowest.seconds:.1f} s",
        f"next: python launchers/submit_pretrain.py {launch} --dry_run"
        if not counts["failed"]
        else "next: mend what failed, then run this again",
    ]
    return "\n".join(lines) + "\n"

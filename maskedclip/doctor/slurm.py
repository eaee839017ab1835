"""What SLURM says of itself, by scontrol and sacct alone."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from maskedclip.doctor.finding import Finding, absent, failed, ok, warning

_TIMEOUT_S = 4
_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
_OLDEST = (20, 11)  # the first whose srun and --signal behave as the launchers rely on
_SAVE_S = 30  # that a collective save may take after a signal
_SMALL_ARRAY = 100


class Cluster(NamedTuple):
    """The answers; empty where nothing was asked or nothing came."""

    commands: tuple[str, ...]  # that are here
    ping: str
    config: Mapping[str, str]  # of `scontrol show config`
    partitions: tuple[Mapping[str, str], ...]
    accounting: str  # what sacct complains of, empty where it answers


def ask() -> Cluster:
    """Ask SLURM, where it is; a controller that does not answer is asked no more."""
    here = tuple(name for name in (*_COMMANDS, "sacct") if shutil.which(name))
    if "scontrol" not in here:
        return Cluster(here, "", {}, (), "")
    ping, config = _said("scontrol", "ping"), dict[str, str]()
    if not _up(ping):
        return Cluster(here, ping or "no answer", {}, (), "")
    for line in _said("scontrol", "show", "config").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            config[name.strip()] = value.strip()
    lines = _said("scontrol", "--oneliner", "show", "partition").splitlines()
    rows = tuple(dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if "Partition" in line)
    wrong = _complaint("sacct", "-n", "-X", "-j", "1") if "sacct" in here else "there is no sacct"
    return Cluster(here, ping, config, rows, wrong)


def commands(here: Sequence[str]) -> Finding:
    """Judge whether SLURM's commands are on PATH."""
    missing = [name for name in _COMMANDS if name not in here]
    if len(missing) == len(_COMMANDS):
        return absent("no SLURM here: runs use this machine (--cluster local)")
    if missing:
        return failed(f"no {', '.join(missing)}", "module load slurm, or add its bin to PATH")
    return ok(", ".join(here))


def controller(cluster: Cluster) -> Finding:
    """Judge whether the controller answers."""
    if "scontrol" not in cluster.commands:
        return absent("no SLURM here")
    said = (cluster.ping.strip().splitlines() or ["no answer"])[-1]
    if not _up(cluster.ping):
        return failed(said, "try later, export SLURM_CONF=FILE, or use --cluster local")
    return ok(said)


def version(config: Mapping[str, str]) -> Finding:
    """Judge SLURM's version."""
    if not config:
        return absent("no SLURM answers here")
    text = config.get("SLURM_VERSION", "")
    numbers = tuple(map(int, re.findall(r"\d+", text)[:2]))
    if numbers < _OLDEST:
        return warning(
            f"{text or 'not said'}, not tried below 20.11", "ask the admin for a newer one"
        )
    return ok(text)


def requeue(config: Mapping[str, str]) -> Finding:
    """Judge whether jobs may go back into the queue."""
    if not config:
        return absent("no SLURM answers here")
    if config.get("JobRequeue") == "0":
        return failed(
            "JobRequeue=0: a pre-empted or timed-out run is lost to the queue",
            "add sbatch = ['--requeue'] to the profile, or run the same command again by hand",
        )
    return ok(f"JobRequeue={config.get('JobRequeue', 'not said')}")


def preemption(config: Mapping[str, str], partitions: Sequence[Mapping[str, str]]) -> Finding:
    """Judge whether a job that has to leave can save before."""
    if not config:
        return absent("no SLURM answers here")
    modes = {row["PreemptMode"] for row in partitions if "PreemptMode" in row} - {"OFF"}
    if config.get("PreemptType", "preempt/none").endswith("none"):
        return ok("no job is pre-empted")
    said = f"PreemptMode={','.join(sorted(modes)) or config.get('PreemptMode', 'not said')}"
    if any("CANCEL" in mode for mode in modes):
        return warning(f"{said}: some jobs are ended, not queued again",
                       "choose a partition that requeues, or submit again")  # fmt: skip
    if "preempt_send_user_signal" not in config.get("SlurmctldParameters", ""):
        return warning(
            f"{said} without preempt_send_user_signal: no signal comes, steps since the last "
            f"checkpoint are lost",
            "a smaller --engine.save_every, or SlurmctldParameters=preempt_send_user_signal "
            "(admin)",
        )
    return ok(f"{said}, with a signal before")


def grace(config: Mapping[str, str], partitions: Sequence[Mapping[str, str]]) -> Finding:
    """Judge the time between a pre-emption's signal and the end."""
    if not config or config.get("PreemptType", "preempt/none").endswith("none"):
        return absent("no job is pre-empted here")
    times = {row["PartitionName"]: row.get("GraceTime", "0") for row in partitions}
    short = {
        name: value
        for row in partitions
        if (name := row["PartitionName"])
        and row.get("PreemptMode") != "OFF"
        and (value := times[name]).isdigit()
        and int(value) < _SAVE_S
    }
    if short:
        said = ", ".join(f"{name} {value} s" for name, value in short.items())
        return warning(
            f"GraceTime of {said}: a save may not end in time",
            "a smaller --engine.save_every, or another partition",
        )
    return ok(", ".join(f"{name} {value}" for name, value in times.items()) or "no partition")


def kill_wait(config: Mapping[str, str]) -> Finding:
    """Judge the time between TERM and KILL at the time limit."""
    if not config:
        return absent("no SLURM answers here")
    found = re.match(r"\d+", config.get("KillWait", ""))
    if not found:
        return warning("KillWait is not said", "ask the admin; the launchers signal 120 s before")
    if int(found[0]) < 5:
        return warning(f"{found[0]} s: logs may end in mid-line", "KillWait=30 (admin)")
    return ok(f"{found[0]} s; the launchers' own signal comes 120 s before the limit")


def arrays(config: Mapping[str, str]) -> Finding:
    """Judge how large an array may be."""
    if not config:
        return absent("no SLURM answers here")
    size, jobs = config.get("MaxArraySize", ""), config.get("MaxJobCount", "not said")
    if not size.isdigit() or int(size) <= 1:
        return failed(f"MaxArraySize={size or 'not said'}: no arrays",
                      "--cluster local, or MaxArraySize=1001 (admin)")  # fmt: skip
    said = f"MaxArraySize={size}, MaxJobCount={jobs}"
    if int(size) < _SMALL_ARRAY:
        return warning(f"{said}: grids become many arrays", "MaxArraySize=1001 (admin)")
    return ok(said)


def accounting(cluster: Cluster) -> Finding:
    """Judge whether sacct tells what became of a job."""
    if not cluster.config:
        return absent("no SLURM answers here")
    kind = cluster.config.get("AccountingStorageType", "")
    if cluster.accounting or kind.endswith("none"):
        return warning(
            f"{kind or 'off'} ({cluster.accounting or 'no storage'}): why a job ended is known "
            f"from its log alone",
            "AccountingStorageType=accounting_storage/slurmdbd (admin); boards work without",
        )
    return ok(kind or "sacct answers")


def _up(ping: str) -> bool:
    return bool(re.search(r"\bUP\b", ping))


def _run(*words: str) -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"{words[0]} does not answer in {_TIMEOUT_S} s"
    return done.returncode, done.stdout, done.stderr


def _said(*words: str) -> str:
    code, out, wrong = _run(*words)
    return out if not code else out + wrong


def _complaint(*words: str) -> str:
    code, _, wrong = _run(*words)
    return (wrong.strip().splitlines() or [f"{words[0]} ends with {code}"])[-1] if code else ""

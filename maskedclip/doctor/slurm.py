"""SLURM's commands and settings, by scontrol and sacct alone."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from maskedclip.doctor.load import patience
from maskedclip.doctor.outcome import Outcome, failed, not_applicable, ok, warning

_TIMEOUT_S = 4
_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
_SAVE_S = 30  # that a collective save may take after a signal
_SMALL_ARRAY = 100
_SILENT = "no SLURM answers here"


class Cluster(NamedTuple):
    """SLURM's answers; empty where nothing was asked or nothing came."""

    commands: tuple[str, ...]  # on PATH
    ping: str
    config: Mapping[str, str]  # of `scontrol show config`
    partitions: tuple[Mapping[str, str], ...]
    accounting: str  # sacct's complaint, empty where it answers


def ask() -> Cluster:
    """Ask SLURM, where it is; a controller that does not answer is asked no more."""
    commands = tuple(name for name in (*_COMMANDS, "sacct") if shutil.which(name))
    if "scontrol" not in commands:
        return Cluster(commands, "", {}, (), "")
    ping = _output("scontrol", "ping")
    if not _up(ping):
        return Cluster(commands, ping or "no answer", {}, (), "")
    lines = _output("scontrol", "show", "config").splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line]
    lines = _output("scontrol", "--oneliner", "show", "partition").splitlines()
    rows = tuple(dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if "Partition" in line)
    complaint = "there is no sacct"
    if "sacct" in commands:
        code, _, stderr = _run("sacct", "-n", "-X", "-j", "1")
        complaint = (stderr.strip().splitlines() or [f"sacct ends with {code}"])[-1] if code else ""
    config = {name.strip(): value.strip() for name, _, value in pairs}
    return Cluster(commands, ping, config, rows, complaint)


def commands(cluster: Cluster) -> Outcome:
    """Judge whether SLURM's commands are on PATH."""
    missing = [name for name in _COMMANDS if name not in cluster.commands]
    if len(missing) == len(_COMMANDS):
        return not_applicable("no SLURM here: runs use this machine (--cluster local)")
    if missing:
        return failed(
            f"no {', '.join(missing)}",
            "add its bin to PATH, on many clusters by: module load slurm",
        )
    return ok(", ".join(cluster.commands))


def controller(cluster: Cluster) -> Outcome:
    """Judge whether the controller answers."""
    if "scontrol" not in cluster.commands:
        return not_applicable("no SLURM here")
    answer = (cluster.ping.strip().splitlines() or ["no answer"])[-1]
    if not _up(cluster.ping):
        return failed(
            answer, "try later, set SLURM_CONF to the cluster's file, or use --cluster local"
        )
    return ok(f"{answer}, SLURM {cluster.config.get('SLURM_VERSION', 'of unknown version')}")


def requeue(cluster: Cluster) -> Outcome:
    """Judge whether jobs may go back into the queue."""
    if not cluster.config:
        return not_applicable(_SILENT)
    if cluster.config.get("JobRequeue") == "0":
        return failed(
            "JobRequeue=0: a pre-empted or timed-out run is lost to the queue",
            "add sbatch = ['--requeue'] to the profile, or run the same command again by hand",
        )
    return ok(f"JobRequeue={cluster.config.get('JobRequeue', 'not stated')}")


def preemption(cluster: Cluster) -> Outcome:
    """Judge whether a pre-empted job can save before it ends."""
    config = cluster.config
    if not config:
        return not_applicable(_SILENT)
    if config.get("PreemptType", "preempt/none").endswith("none"):
        return ok("no job is pre-empted")
    modes = {row["PreemptMode"] for row in cluster.partitions if "PreemptMode" in row} - {"OFF"}
    message = f"PreemptMode={','.join(sorted(modes)) or config.get('PreemptMode', 'not stated')}"
    if any("CANCEL" in mode for mode in modes):
        return warning(f"{message}: some jobs are ended, not queued again",
                       "choose a partition that requeues, or submit again")  # fmt: skip
    if "preempt_send_user_signal" not in config.get("SlurmctldParameters", ""):
        return warning(
            f"{message} without preempt_send_user_signal: no signal comes, steps since the last "
            f"checkpoint are lost",
            "a smaller --engine.save_every, or SlurmctldParameters=preempt_send_user_signal "
            "(admin)",
        )
    return ok(f"{message}, with a signal before")


def grace(cluster: Cluster) -> Outcome:
    """Judge the time between a pre-emption's signal and the end."""
    if cluster.config.get("PreemptType", "preempt/none").endswith("none"):
        return not_applicable("no job is pre-empted here")
    seconds = {
        row["PartitionName"]: row.get("GraceTime", "0")
        for row in cluster.partitions
        if row.get("PreemptMode") != "OFF"
    }
    short = {k: v for k, v in seconds.items() if v.isdigit() and int(v) < _SAVE_S}
    if short:
        return warning(
            f"GraceTime of {', '.join(f'{k} {v} s' for k, v in short.items())}: a save may not end "
            f"in time",
            "a smaller --engine.save_every, or another partition",
        )
    return ok(", ".join(f"{k} {v}" for k, v in seconds.items()) or "no partition")


def arrays(cluster: Cluster) -> Outcome:
    """Judge how large an array may be."""
    if not cluster.config:
        return not_applicable(_SILENT)
    size = cluster.config.get("MaxArraySize", "")
    jobs = cluster.config.get("MaxJobCount", "not stated")
    if not size.isdigit() or int(size) <= 1:
        return failed(f"MaxArraySize={size or 'not stated'}: no arrays",
                      "--cluster local, or MaxArraySize=1001 (admin)")  # fmt: skip
    message = f"MaxArraySize={size}, MaxJobCount={jobs}"
    if int(size) < _SMALL_ARRAY:
        return warning(f"{message}: grids become many arrays", "MaxArraySize=1001 (admin)")
    return ok(message)


def accounting(cluster: Cluster) -> Outcome:
    """Judge whether sacct reports why a job ended."""
    if not cluster.config:
        return not_applicable(_SILENT)
    kind = cluster.config.get("AccountingStorageType", "")
    if cluster.accounting or kind.endswith("none"):
        return warning(
            f"{kind or 'off'} ({cluster.accounting or 'no storage'}): why a job ended is known "
            f"from its log alone",
            "AccountingStorageType=accounting_storage/slurmdbd (admin); the status command works "
            "without",
        )
    return ok(kind or "sacct answers")


def _up(ping: str) -> bool:
    return bool(re.search(r"\bUP\b", ping))


def _run(*command: str) -> tuple[int, str, str]:
    limit_s = _TIMEOUT_S * patience()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return 1, "", f"{command[0]} does not answer in {limit_s:.3g} s"
    return done.returncode, done.stdout, done.stderr


def _output(*command: str) -> str:
    code, stdout, stderr = _run(*command)
    return stdout if not code else stdout + stderr

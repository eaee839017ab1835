"""This machine: its memory, processors, limits, network and clock."""

import datetime
import os
import re
import resource
import shutil
import socket
import time
import zoneinfo
from collections.abc import Mapping, Sequence
from pathlib import Path

from maskedclip.doctor.finding import Finding, absent, failed, gigabytes, ok, warning

_SHM = (64 << 20, 1 << 30)  # bytes: less stops NCCL; less is Docker's kind of default
_UNLIMITED_BELOW = 1 << 60  # cgroup version 1 writes a number near 2**63 for "no limit"
_OWN_FILES = 256  # that a process opens beside its shards
_RANK_BYTES = 4e9  # of a rank in the host's memory: torch, CUDA's context, decoded batches
_TMP_BYTES = 1e9


def shared_memory(folder: Path) -> Finding:
    """Judge /dev/shm, through which ranks of a node talk."""
    if not folder.is_dir():
        return failed(f"no {folder}: NCCL and gloo need it", f"mount -t tmpfs tmpfs {folder}")
    usage = shutil.disk_usage(folder)
    said = f"{gigabytes(usage.free)} free of {gigabytes(usage.total)}"
    mend = "start the container with --shm-size=8g (or --ipc=host), or remove what fills it"
    if usage.free < _SHM[0]:
        return failed(f"{said}: NCCL ends with 'No space left on device'", mend)
    return ok(said) if usage.free >= _SHM[1] else warning(said, mend)


def open_files(limits: tuple[int, int], shards: int) -> Finding:
    """Judge the soft and hard limit of open files by the shards that a rank reads."""
    soft, hard = limits
    needed = shards + _OWN_FILES
    said = f"{_limit(soft)}, {needed} needed"
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = hard == resource.RLIM_INFINITY or hard >= needed
        mend = f"ulimit -n {needed}" + ("" if most else " (ask the admin: the hard limit is lower)")
        return failed(f"{said}: reading ends with 'Too many open files'", mend)
    return ok(said)


def locked_memory(limit: int, infiniband: Sequence[str]) -> Finding:
    """Judge the limit of locked memory, which InfiniBand's transfers use."""
    if not infiniband:
        return absent("no InfiniBand here, so nothing has to be locked")
    if limit != resource.RLIM_INFINITY:
        return warning(
            f"{gigabytes(limit)} with {', '.join(infiniband)}: NCCL cannot register memory",
            "ulimit -l unlimited, and in jobs PropagateResourceLimitsExcept=MEMLOCK (admin)",
        )
    return ok("unlimited")


def core_files(limit: int, pattern: str) -> Finding:
    """Judge whether a rank that crashes fills the disk with its memory."""
    if limit and not pattern.startswith("|"):
        return warning(
            f"{_limit(limit)} bytes: a crash writes each rank's memory beside the run",
            "ulimit -c 0 in the job (setup of the cluster profile)",
        )
    return ok("none are written" if not limit else "a crash reporter takes them")


def cgroup_folders(membership: str, root: Path, controller: str) -> list[Path]:
    """Return the folders, innermost first, whose limits bind a process.

    Args:
        membership: the text of /proc/self/cgroup.
        root: /sys/fs/cgroup.
    """
    folders = []
    for line in membership.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        inner = base / path.lstrip("/")
        folders += [p for p in (inner, *inner.parents) if p == base or base in p.parents]
    return folders


def memory_limit(membership: str, root: Path) -> int | None:
    """Return the bytes that the control groups allow; None where they do not say."""
    found = []
    for folder in cgroup_folders(membership, root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit() and int(text) < _UNLIMITED_BELOW:
                found.append(int(text))
    return min(found, default=None)


def cpu_limit(membership: str, root: Path) -> float | None:
    """Return the processors that the control groups allow; None where they do not say."""
    found = []
    for folder in cgroup_folders(membership, root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quota = quota or _read(folder / "cpu.cfs_quota_us")
        period = period or _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory(physical: int, limit: int | None, ranks: int, snapshot: float) -> Finding:
    """Judge the memory of a node, in bytes, by its ranks and a checkpoint written aside."""
    usable = min(physical, limit or physical)
    needed = ranks * _RANK_BYTES + snapshot
    where = f"of the control group, of {gigabytes(physical)}" if usable < physical else "in all"
    said = f"{gigabytes(usable)} {where}; about {gigabytes(needed)} needed by {ranks} ranks"
    if snapshot and usable < snapshot:
        return failed(said, "--engine.save_aside=false, or ask for more (--memory_gb)")
    if usable < needed:
        return warning(said, "ask for more (--memory_gb), or --data.prefetch=1")
    return ok(said)


def processors(count: int, usable: float, ranks: int, threads: int) -> Finding:
    """Judge the processors that may be used, by the threads of all ranks of a node."""
    wanted = ranks * (threads + 1)
    said = f"{usable:g} of {count} may be used; {wanted} threads of {ranks} ranks work"
    if usable < wanted:
        fewer = max(1, int(usable // max(1, ranks)) - 1)
        return warning(said, f"--cpus_per_rank={threads + 1} on SLURM, or --data.threads={fewer}")
    return ok(said)


def omp_threads(value: str | None, usable: float, ranks: int) -> Finding:
    """Judge OMP_NUM_THREADS."""
    share = max(1, int(usable // max(1, ranks)))
    if value is None:
        return ok("OMP_NUM_THREADS is not set: the launchers set it")
    if not value.isdigit() or not int(value):
        return failed(f"OMP_NUM_THREADS={value!r} is no count", f"export OMP_NUM_THREADS={share}")
    if int(value) * ranks > usable:
        return warning(
            f"OMP_NUM_THREADS={value} x {ranks} ranks on {usable:g} processors: they wait in turn",
            f"export OMP_NUM_THREADS={share}",
        )
    return ok(f"OMP_NUM_THREADS={value}")


def host_name(name: str, nodes: int) -> Finding:
    """Judge whether other nodes can find this one by its name."""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    except OSError as error:
        mend = f"add '127.0.0.1 {name}' to /etc/hosts, or mend the DNS"
        return failed(f"{name} does not resolve ({error.strerror}): gloo hangs or fails", mend)
    said = f"{name} is {', '.join(sorted(addresses))}"
    loopback = all(address.startswith("127.") or address == "::1" for address in addresses)
    if nodes > 1 and loopback:
        mend = f"give {name} its own address in /etc/hosts, or export GLOO_SOCKET_IFNAME=DEVICE"
        return failed(f"{said} alone: other nodes cannot reach it", mend)
    return ok(said)


def interfaces(present: Sequence[str], environment: Mapping[str, str], nodes: int) -> Finding:
    """Judge the network devices that gloo and NCCL are told to use."""
    others = [name for name in present if name != "lo"]
    mend = f"export GLOO_SOCKET_IFNAME=DEVICE NCCL_SOCKET_IFNAME=DEVICE, of {', '.join(present)}"
    told = {
        n: environment[n] for n in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if n in environment
    }
    for name, value in told.items():
        exclusive = value.startswith("^")
        words = [word for word in value.lstrip("^=").split(",") if word]
        exact = name.startswith("GLOO") or value.startswith("=")
        hits = [p for p in present if any(p == w or (not exact and p.startswith(w)) for w in words)]
        if not (set(present) - set(hits) if exclusive else hits):
            return failed(f"{name}={value}: there is no such device", mend)
    if not present or (nodes > 1 and not others):
        return failed(f"{', '.join(present) or 'no device'}: other nodes cannot be reached", mend)
    virtual = [name for name in others if re.match(r"docker|virbr|veth|br-|tun|tap", name)]
    if nodes > 1 and virtual and not told:
        return warning(f"{', '.join(others)}: gloo may choose {virtual[0]}", mend)
    return ok(", ".join(f"{k}={v}" for k, v in told.items()) or ", ".join(present))


def temporary(folder: Path) -> Finding:
    """Judge the folder of temporary files."""
    mend = "export TMPDIR to a folder with room that can be written"
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return failed(f"TMPDIR {folder} cannot be written", mend)
    free = shutil.disk_usage(folder).free
    if free < _TMP_BYTES:
        return warning(f"{folder}: {gigabytes(free)} free", mend)
    return ok(f"{folder}, {gigabytes(free)} free")


def clock(now_s: float, newest_s: float) -> Finding:
    """Judge the clock by the newest file of the code, which cannot be of the future."""
    shown = datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if newest_s > now_s + 60:
        return failed(
            f"{shown}, but the code is {newest_s - now_s:.0f} s younger: this clock is behind",
            "start chrony or ntpd (admin); submitit and TLS mind the time",
        )
    return ok(shown)


def time_zone(value: str | None, local: str) -> Finding:
    """Judge TZ: a zone that is not known counts as UTC without a word."""
    name = (value or "").lstrip(":")
    posix = re.match(r"(\w{3,}|<[^>]+>)[+-]?\d", name)  # such as CET-1CEST
    if name and not posix and not Path(name).is_absolute():
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            mend = "unset TZ, or name a zone of /usr/share/zoneinfo"
            return warning(f"TZ={value} is not known and counts as UTC", mend)
    return ok(f"{local}{f' (TZ={value})' if value else ''}; SLURM's times are local ones")


def facts() -> dict[str, str]:
    """Return the time zone that the system uses, and its host name."""
    return {"zone": time.tzname[0], "host": socket.gethostname()}


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

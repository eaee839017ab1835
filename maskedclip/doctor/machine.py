"""This machine: Python and its packages, limits, shared memory and network."""

import configparser
import importlib.metadata
import importlib.util
import resource
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from maskedclip.doctor.outcome import Outcome, failed, gigabytes, not_applicable, ok, warning

_SHM = (64 << 20, 1 << 30)  # bytes: less stops NCCL; less is Docker's kind of default
_OWN_FILES = 256  # that a process opens beside its shards


def installed(package: str) -> str:
    """Return the version of an installed package, empty where it is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def declared(root: Path) -> tuple[str, list[str]]:
    """Return (Python versions, packages) as setup.cfg or the installed package requires them."""
    setup = configparser.ConfigParser()
    if setup.read(root / "setup.cfg") and setup.has_section("options"):
        lines = setup["options"].get("install_requires", "").splitlines()
        return setup["options"].get("python_requires", ""), [line for line in lines if line.strip()]
    try:
        facts = importlib.metadata.metadata("maskedclip").json
    except importlib.metadata.PackageNotFoundError:
        return "", []
    wanted, lines = facts.get("requires_python", ""), list(facts.get("requires_dist", []))
    return str(wanted), [line for line in lines if "extra ==" not in line]


def python(version: str, wanted: str) -> Outcome:
    """Judge the version of Python by specifiers such as >=3.11."""
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return failed(
            f"{version}, wanted {wanted}",
            f"make a venv with a Python {wanted}, and install the package there",
        )
    return ok(version)


def packages(requirements: Sequence[str], version_of: Callable[[str], str] = installed) -> Outcome:
    """Judge installed versions by requirements such as torch>=2.13,<2.15."""
    if not requirements:
        return not_applicable("neither setup.cfg nor an installed package says what is needed")
    wrong = []
    for wanted in map(Requirement, requirements):
        version = version_of(wanted.name)
        if not version or not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version or 'missing'} (wanted {wanted.specifier})")
    if wrong:
        return failed("; ".join(wrong), "pip install -U -e .")
    return ok(f"all {len(requirements)} packages of setup.cfg")


def tensorboard(module: str = "tensorboard") -> Outcome:
    """Judge whether curves can be written and shown."""
    if importlib.util.find_spec(module) is None:
        return failed(f"no {module}: runs cannot write their curves", "pip install tensorboard")
    return ok(installed(module) or "importable")


def shared_memory(folder: Path) -> Outcome:
    """Judge /dev/shm, through which ranks of a node communicate."""
    if not folder.is_dir():
        return failed(f"no {folder}: NCCL and gloo need it", f"mount -t tmpfs tmpfs {folder}")
    usage = shutil.disk_usage(folder)
    message = f"{gigabytes(usage.free)} free of {gigabytes(usage.total)}"
    fix = "start the container with --shm-size=8g (or --ipc=host), or remove what fills it"
    if usage.free < _SHM[0]:
        return failed(f"{message}: NCCL ends with 'No space left on device'", fix)
    return ok(message) if usage.free >= _SHM[1] else warning(message, fix)


def open_files(limits: tuple[int, int], shards: int) -> Outcome:
    """Judge the soft and hard limit of open files by the shards that a rank reads."""
    soft, hard = limits
    needed = shards + _OWN_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,}"
        return ok(f"{limit}, {needed} needed")
    raisable = hard == resource.RLIM_INFINITY or hard >= needed
    return failed(
        f"{soft:,}, {needed} needed: reading ends with 'Too many open files'",
        ("" if raisable else "ask the admin for a higher hard limit, then: ")
        + f"ulimit -n {needed}",
    )


def host_name(name: str, nodes: int) -> Outcome:
    """Judge whether other nodes can reach this one by its name."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError as error:
        fix = f"add '127.0.0.1 {name}' to /etc/hosts, or repair the DNS"
        return failed(f"{name} does not resolve ({error.strerror}): gloo hangs or fails", fix)
    message = f"{name} is {', '.join(sorted(addresses))}"
    loopback = all(address.startswith("127.") or address == "::1" for address in addresses)
    if nodes > 1 and loopback:
        fix = (
            f"give {name} its own address in /etc/hosts, or set GLOO_SOCKET_IFNAME to the network "
            f"device that reaches the other nodes"
        )
        return failed(f"{message} alone: other nodes cannot reach it", fix)
    return ok(message)


def network_devices(present: Sequence[str], environment: Mapping[str, str], nodes: int) -> Outcome:
    """Judge the network devices that gloo and NCCL are set to use."""
    fix = (
        f"set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the device that reaches the other "
        f"nodes, of {', '.join(present)}"
    )
    variables = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    chosen = {name: environment[name] for name in variables if name in environment}
    for name, value in chosen.items():
        words = [word for word in value.lstrip("^=").split(",") if word]
        exact = name.startswith("GLOO") or value.startswith("=")
        hits = [p for p in present if any(p == w or (not exact and p.startswith(w)) for w in words)]
        if not (set(present) - set(hits) if value.startswith("^") else hits):
            return failed(f"{name}={value}: there is no such device", fix)
    if nodes > 1 and set(present) <= {"lo"}:
        return failed(f"{', '.join(present) or 'no device'}: other nodes cannot be reached", fix)
    return ok(", ".join(f"{k}={v}" for k, v in chosen.items()) or ", ".join(present))

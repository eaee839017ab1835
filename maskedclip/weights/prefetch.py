"""Fetch what a run reads from a hub, for compute nodes without network.

    python tools/prefetch.py [RECIPE] [--cache DIR] [--SECTION.FIELD=VALUE ...]

The text tower (model.text) and initial weights (init_from) go where Hugging Face and torch
search them: below $HF_HOME and $TORCH_HOME, or below DIR. Then both are loaded again with the
network forbidden. What is there already is not fetched. Run it where there is network, such as a
login node; without RECIPE it is maskedclip_vitl.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from maskedclip.command import one_line_errors, read_config
from maskedclip.config import Config
from maskedclip.models import BUILTIN
from maskedclip.next_step import next_lines

USAGE = __doc__ or ""
_WAIT_S = 10.0
_FILES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar")


@dataclass(frozen=True, kw_only=True)
class PrefetchConfig:
    """Where the files go."""

    cache: str = ""  # folder for all of it; empty: $HF_HOME and $TORCH_HOME, or their defaults


class Need(NamedTuple):
    """What a run reads and can come from a hub: its text tower, its initial weights."""

    field: str  # model.text or init_from
    name: str  # a folder or file, or a name of the hub

    @property
    def local(self) -> bool:
        return Path(self.name).exists()

    @property
    def repository(self) -> str:
        """Return where the hub has it: weights without an owner are timm's."""
        timms = self.field == "init_from" and "/" not in self.name
        return f"timm/{self.name}" if timms else self.name

    def folder(self, hub: Path) -> Path:
        """Return where it is, or is to be, on this machine."""
        path = hub / f"models--{self.repository.replace('/', '--')}"
        return Path(self.name) if self.local else path


def needs(config: Config) -> list[Need]:
    """Return those of a run's text tower and initial weights that this package does not hold."""
    wanted = []
    if config.loss.clip and config.model.text != BUILTIN:  # without the contrast none is built
        wanted.append(Need("model.text", config.model.text))
    if config.init_from:
        wanted.append(Need("init_from", config.init_from))
    return wanted


def holds(need: Need, hub: Path | None = None) -> bool:
    """Return whether the files of `need` are on this machine, without loading them.

    Args:
        hub: the folder of the hub's cache; None: where $HF_HOME says.
    """
    if need.local:
        return need.field == "init_from" or _whole({p.name for p in Path(need.name).iterdir()})
    snapshots = need.folder(hub or hub_folder(os.environ)) / "snapshots"
    names = [{p.name for p in folder.iterdir() if p.exists()} for folder in _folders(snapshots)]
    if need.field == "init_from":
        return any(name.endswith(_FILES) for snapshot in names for name in snapshot)
    return any(map(_whole, names))


def hub_folder(environment: Mapping[str, str]) -> Path:
    """Return where the hub keeps models, as huggingface_hub finds it."""
    caches = Path(environment.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(environment.get("HF_HOME") or caches / "huggingface")
    return Path(environment.get("HF_HUB_CACHE") or home / "hub").expanduser()


def prefetch(config: Config, named: str, options: PrefetchConfig) -> str:
    """Fetch and verify all that `config` needs; return what the user reads.

    Raises ValueError for a file that is not there or a folder without a BERT, RuntimeError where
    the hub cannot be reached or does not have it.
    """
    wanted = needs(config)
    if not wanted:
        return (
            f"{named}: nothing to fetch, as it takes no text tower and no initial weights from a "
            f"hub\n{_next(config, named)}"
        )
    environment = dict(os.environ)
    if options.cache:
        cache = Path(options.cache).absolute()
        cache.mkdir(parents=True, exist_ok=True)
        environment |= {"HF_HOME": str(cache), "TORCH_HOME": str(cache / "torch")}
        environment.pop("HF_HUB_CACHE", None)
    lines = []
    for number, need in enumerate(wanted, 1):
        sys.stderr.write(f"{number} of {len(wanted)}: {need.field} {need.name}\n")
        lines.append(_one(need, environment))
    lines += ["", "a job needs (setup of the cluster profile, or its script):"]
    home = hub_folder(environment).parent
    if any(not need.local for need in wanted):
        lines.append(f"  export HF_HOME={shlex.quote(str(home))}")
        if options.cache:
            lines.append(f"  export TORCH_HOME={shlex.quote(environment['TORCH_HOME'])}")
    lines.append("  export HF_HUB_OFFLINE=1")
    return "\n".join([*lines, _next(config, named)])


def _next(config: Config, named: str) -> str:
    """Return what comes next: the run, or where its shards are still to be made, these."""
    from maskedclip.pretrain.preflight import check  # NumPy, which --help does without

    try:
        check(config)
    except ValueError as error:
        # where a run of this name is there, the error says what to do, and shards would not help
        build = "" if config.directory.exists() else "python tools/make_shards.py --list"
        return f"not yet ready to run: {error}\n{next_lines(*filter(None, [build]))}"
    return next_lines(f"python launchers/submit_pretrain.py {named}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command; mistakes end in one line and exit code 2."""
    config, options, recipe, changes = read_config(
        USAGE, PrefetchConfig(), "maskedclip_vitl", arguments
    )
    with one_line_errors():
        named = f"{recipe or 'maskedclip_vitl'} {changes}".strip()
        sys.stdout.write(prefetch(config, named, options))


def _one(need: Need, environment: dict[str, str]) -> str:
    """Fetch one need, where it is missing, and load it offline; return a line on it."""
    hub, start = hub_folder(environment), time.monotonic()
    cached = holds(need, hub)
    if not cached:
        _may_fetch(need, environment)
        _child("fetch", need, environment)
    report = _child("load", need, environment | {"HF_HUB_OFFLINE": "1"})
    folder = need.folder(hub)
    state = "already there" if cached else f"fetched in {time.monotonic() - start:.0f} s"
    return (
        f"{need.field}  {need.name}: {state}, {_bytes(folder) / 1e6:,.1f} MB, loads offline "
        f"({report})\n  {folder}"
    )


def _may_fetch(need: Need, environment: Mapping[str, str]) -> None:
    """Raise, in one line, where fetching cannot work."""
    name = need.name
    if need.local or name.endswith(_FILES) or name[0] in "/.~" or name.count("/") > 1:
        kind = "a BERT (config.json, vocab.txt or tokenizer.json, model.safetensors)"
        fault = "holds no whole BERT" if need.local else "is no such file or folder"
        raise ValueError(
            f"{need.field} {name}: {fault}; name a file of weights, a folder with {kind}, or a "
            f"name of the hub"
        )
    if environment.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise ValueError(
            f"{need.field} {name} is not in {hub_folder(environment)}, and HF_HUB_OFFLINE="
            f"{environment['HF_HUB_OFFLINE']} forbids the network; unset HF_HUB_OFFLINE"
        )
    endpoint = urllib.parse.urlsplit(environment.get("HF_ENDPOINT") or "https://huggingface.co")
    if not endpoint.hostname:
        raise ValueError(f"HF_ENDPOINT={environment['HF_ENDPOINT']}: is no address; unset it")
    if urllib.request.getproxies().get(endpoint.scheme):
        return  # only the proxy knows
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        socket.create_connection((endpoint.hostname, port), _WAIT_S).close()
    except OSError as error:
        folder = need.folder(hub_folder(environment))
        raise RuntimeError(
            f"{need.field} {name}: {endpoint.hostname} cannot be reached ({error.strerror or error}"
            f"); run this command where there is network, then copy the folder it names to {folder}"
        ) from None


def _child(verb: str, need: Need, environment: Mapping[str, str]) -> str:
    """Fetch or load in a process of its own: the cache folders are fixed at import."""
    name = need.repository if verb == "fetch" else need.name
    done = subprocess.run(
        [sys.executable, "-m", "maskedclip.weights.prefetch_child", verb, need.field, name],
        env={**environment, "PYTHONPATH": _path(environment), "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(
            f"{need.field} {need.name} does not {verb}: "
            f"{_reason(done.stderr) or f'ends with {done.returncode}'}; see the name, or remove "
            f"what is half there and run this again"
        )
    return done.stdout.strip().splitlines()[-1]


def _reason(words: str) -> str:
    """Return the message of the last exception of a traceback, on one line."""
    lines = words.strip().splitlines()
    named = [i for i, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return " ".join(" ".join(lines[named[-1] if named else -1 :]).split())[:240]


def _path(environment: Mapping[str, str]) -> str:
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (here, environment.get("PYTHONPATH"))))


def _whole(names: set[str]) -> bool:
    weights = any(name.startswith(("model", "pytorch_model")) and name.endswith(
        (".safetensors", ".bin")) for name in names)  # fmt: skip
    return "config.json" in names and bool(names & {"vocab.txt", "tokenizer.json"}) and weights


def _folders(path: Path) -> list[Path]:
    return [folder for folder in path.iterdir() if folder.is_dir()] if path.is_dir() else []


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())

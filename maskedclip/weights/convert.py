"""Third-party checkpoints that hold more than tensors, as safetensors.

    python tools/convert_weights.py FILE --i_trust_this_file [--out FILE.safetensors]

Elsewhere, weights are only ever read as tensors and plain values. A pickle with
objects of other packages in it, or a TorchScript archive such as OpenAI's CLIP, is read by this
command alone, in a process of its own with nothing of the environment but the path. In a pickle no
object is made: everything but tensors and containers becomes an empty stand-in. Of a TorchScript
archive the attributes of its modules are read in the same way; torch itself would run its code.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskedclip.command import CommandLine, Options, Word, one_line_errors
from maskedclip.models.checkpoints.archives import check_archive, is_zip
from maskedclip.models.checkpoints.file_kinds import SAFETENSORS, TORCH, check_kind
from maskedclip.models.checkpoints.files import read_safetensors, readable
from maskedclip.next_step import evaluate_command, next_lines

_SECONDS = 1800
_CHILD = "maskedclip.weights.convert_child"


def convert(source: Path, out: Path) -> Path:
    """Write the tensors of a checkpoint as safetensors; return where they are.

    Raises ValueError where there is no such file or it gives no tensors by name.
    """
    check_source(source)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    here = str(Path(__file__).resolve().parents[2])
    try:
        done = subprocess.run(
            [sys.executable, "-m", _CHILD, str(source.resolve()), str(temporary)],
            env=environment | {"PYTHONPATH": here},
            capture_output=True, text=True, check=False, timeout=_SECONDS,
        )  # fmt: skip
        if done.returncode or not temporary.is_file():
            reason = (done.stderr.strip().splitlines() or [f"ends with {done.returncode}"])[-1]
            raise ValueError(f"{source}: {reason.removeprefix(f'{source.resolve()}: ')[:300]}")
        read_safetensors(temporary)
        temporary.replace(out)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{source}: not read within {_SECONDS // 60} minutes") from None
    finally:
        temporary.unlink(missing_ok=True)
    return out


def check_source(source: Path) -> None:
    """Raise ValueError where a file is damaged, or none of torch: before trust is asked."""
    if source.is_dir():
        raise ValueError(f"{source}: a folder; name the checkpoint in it")
    if not source.is_file():
        raise ValueError(f"{source}: no such file")
    with readable(source):
        if source.suffix == SAFETENSORS:
            check_kind(source, SAFETENSORS)
            raise ValueError(f"{source}: safetensors already; nothing to convert")
        check_kind(source, TORCH)
        if is_zip(source):
            check_archive(source, torchscript=True)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What becomes of a checkpoint."""

    out: Path | None = None  # file that is written; None: beside FILE, as .safetensors
    i_trust_this_file: bool = False  # reading a pickle may run code of its maker


CONVERT = CommandLine(Options(ConvertConfig()), words=[Word("FILE")])


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command; mistakes end in one line and exit code 2."""
    given = CONVERT.read(__doc__, arguments)
    source = Path(given.words[0])
    with one_line_errors():
        options: ConvertConfig = given.config()
        check_source(source)
        if not options.i_trust_this_file:
            raise ValueError(
                f"{source}: reading it may run code of its maker; if you trust them, add "
                f"--i_trust_this_file"
            )
        out = convert(source, options.out or source.with_suffix(".safetensors"))
        sys.stdout.write(
            f"{out}: {len(read_safetensors(out)[0])} tensors, {out.stat().st_size / 1e6:,.1f} MB\n"
            f"{next_lines(evaluate_command(out))}"
        )

"""A run's weights for other libraries: written, opened again, compared, and described.

torch is imported only when there is work for it, so that --help and mistakes answer at once.
"""

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from maskedclip import __version__
from maskedclip.casting import did_you_mean
from maskedclip.command import CommandLine, Options, Word, log_lines, one_line_errors
from maskedclip.engine.whole_file import refuse_unwritable
from maskedclip.models.checkpoints.sealed import file_sha256
from maskedclip.weights.push import CARD, check_hub, check_push, files_of, push, state_licence

if TYPE_CHECKING:
    from maskedclip.weights.classifiers.source import ClassifierSource
    from maskedclip.weights.source_run import FeatureCheck, SourceRun

    Source = SourceRun | ClassifierSource

logger = logging.getLogger(__name__)
USAGE = """\
Hand a run's weights to other libraries, with a model card, and show that the features are equal.

    python tools/export_weights.py RUN --to timm|hf|retfound|open_clip|onnx [--out DIR]
    python tools/export_weights.py RUN --to hf --push USER/NAME --licence ID [--public] [--dry_run]

RUN is the directory of a pre-training run, or its encoder.safetensors or model.safetensors; or a
fine-tuned run, whose network goes to timm, hf or onnx with the names of its classes.

  timm       a folder for timm.create_model("local-dir:..."), with the run's colours and size
  hf         a folder for transformers: AutoModel (ViTModel), AutoImageProcessor; in mae/ the pixel
             decoder too, for ViTMAEForPreTraining
  retfound   {"model": ...} with MAE's names in a .pth, for --finetune of RETFound and of MAE
  open_clip  a folder for open_clip.create_model_and_transforms: both towers; needs a run with text
  onnx       the image encoder for ONNX Runtime, any number of images at a time

The weights are opened again by the other library, where it is installed, and must give the run's
features or logits; the last line printed opens them. --push sends the folder to the Hugging Face
hub, with its card, which states the licence; --dry_run lists what would be sent."""
TARGETS = ("timm", "hf", "retfound", "open_clip", "onnx")
FACTS = "export.json"  # marks a folder of ours, which may be overwritten; sealed.py reads it


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Where the weights go."""

    to: str = ""  # timm, hf, retfound, open_clip or onnx
    out: str = ""  # folder that is written; empty: RUN/export/TARGET
    push: str = ""  # USER/NAME of the hub that it is sent to; empty: it stays here
    licence: str = ""  # that the card states, as the hub calls it, such as cc-by-nc-4.0
    public: bool = False  # a repository that is made is seen by everybody
    dry_run: bool = False  # list what --push would send, and send nothing

    def __post_init__(self) -> None:
        check_push(self.push, self.licence)
        if not self.push and (self.public or self.dry_run):
            raise ValueError("--public and --dry_run are of --push=USER/NAME; give it, too")
        if self.to and self.to not in TARGETS:
            near = did_you_mean(self.to, TARGETS, f"use one of {', '.join(TARGETS)}")
            raise ValueError(f"--to {self.to}; {near}")


EXPORT = CommandLine(Options(ExportConfig()), words=[Word("RUN")])


def export(run: Path, to: str, out: Path | None = None) -> str:
    """Write the weights of `run` for the library `to`; return what the user reads.

    The folder appears under its name when it is whole, and replaces an earlier export.

    Args:
        run: directory of a pre-training run, or one of its files of weights.
        to: one of TARGETS.
        out: folder; RUN/export/TARGET where not given.

    Raises ValueError where the run cannot be expressed there, RuntimeError where the library's
    features are not the run's.
    """
    source, target, card = _source_of(run, to)
    out = out or source.run / "export" / to
    refuse_unwritable("out", out.parent)
    logger.info("%s: the weights of %s", to, source.file)
    _write(target, source, to, out)
    try:
        checks = _checked(target, source, out)
        notes = target.notes(source)
        here = Path("FOLDER")
        code = [*target.opening_code(source, here), *target.usage_code(source, here)]
        (out / CARD).write_text(card(source, to, code, checks, notes))
    except BaseException:
        shutil.rmtree(out)  # ours, and not what it should be
        raise
    return _summary(out, checks, notes, target.opening_code(source, out))


def _source_of(run: Path, to: str) -> tuple[Any, ModuleType, Callable[..., str]]:
    """Return the weights of a run, what writes them for a library, and what describes them."""
    from maskedclip.weights.classifiers import source as classifiers

    if classifiers.is_classifier(run):
        from maskedclip.weights.classifiers.card import classifier_card

        if to not in classifiers.TARGETS:
            names = ", ".join(classifiers.TARGETS)
            raise ValueError(
                f"{run}: a fine-tuned run goes to {names}, and not to {to}; or export the run that "
                f"it began from"
            )
        target = import_module(f"maskedclip.weights.classifiers.to_{to}")
        return classifiers.read_classifier_source(run), target, classifier_card

    from maskedclip.weights.model_card import card
    from maskedclip.weights.source_run import read_source

    return read_source(run), import_module(f"maskedclip.weights.to_{to}"), card


def _write(target: ModuleType, source: "Source", to: str, out: Path) -> None:
    if out.exists() and not (out / FACTS).is_file() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out}: holds other things than an export; choose another --out")
    for left in out.parent.glob(f".{out.name}.*.tmp"):  # of a killed export
        shutil.rmtree(left, ignore_errors=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        target.write(source, temporary, out)
        files = sorted(path for path in temporary.iterdir() if path.is_file())
        facts = {
            "to": to, "run": source.name, "file": source.file.name, "by": __version__,
            "sha256": {path.name: file_sha256(path) for path in files},
        }  # fmt: skip
        (temporary / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked(target: ModuleType, source: "Source", out: Path) -> list["FeatureCheck"]:
    logger.info("written; now opened as its users will, and compared")
    checks: list[FeatureCheck] = target.compare(source, out)
    for check in checks:
        if check.limit is not None and not check.difference <= check.limit:
            raise RuntimeError(
                f"{out}: {check.what} are {check.difference:.2g} from the run's, more than "
                f"{check.limit:g}; nothing is left there, please report it"
            )
    return checks


def _summary(
    out: Path, checks: Sequence["FeatureCheck"], notes: Sequence[str], opens: Sequence[str]
) -> str:
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    lines = [f"{out}: {', '.join(names)}"]
    lines += [f"  {check.difference:8.1e} from the run: {check.what}" for check in checks]
    lines += [f"  note: {remark}" for remark in notes]
    return "\n".join([*lines, f"the card is {out / CARD}; it opens with:", *opens]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command; mistakes end in one line and exit code 2."""
    given = EXPORT.read(USAGE, arguments)
    log_lines(logging.WARNING)
    logging.getLogger("maskedclip").setLevel(logging.INFO)  # the other libraries log a lot
    with one_line_errors():
        options: ExportConfig = given.config()
        if not options.to:
            raise ValueError(f"--to is missing; use one of {', '.join(TARGETS)}")
        if options.push and not options.dry_run:
            check_hub(options.push)  # before the work
        run, to = Path(given.words[0]), options.to
        usual = (run if run.is_dir() else run.parent) / "export" / to
        out = Path(options.out) if options.out else usual
        sys.stdout.write(export(run, to, out))
        if options.licence:
            state_licence(out, options.licence)
        if options.push:
            sys.stdout.write(_pushed(out, options))


def _pushed(out: Path, options: ExportConfig) -> str:
    """Send the folder, or list what would be sent; return what is printed."""
    if not options.dry_run:
        return f"pushed: {push(out, options.push, public=options.public)}\n"
    names = files_of(out)
    sizes = [(out / name).stat().st_size for name in names]
    lines = [f"  {size / 1e6:10.3f} MB  {name}\n" for name, size in zip(names, sizes, strict=True)]
    seen = "public" if options.public else "private"
    return f"would be sent to {options.push} ({seen} if it is new):\n{''.join(lines)}"

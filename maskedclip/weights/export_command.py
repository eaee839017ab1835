"""The command line of export_weights: it reads, it asks for the export, it says how to open it."""

import difflib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskedclip.command import check_flags, one_line_errors, read_flags, stop

USAGE = """\
Hand a run's weights to other libraries, with a model card, and show that the features are equal.

    python tools/export_weights.py RUN --to timm|hf|retfound|open_clip|onnx [--out DIR]

RUN is the directory of a pre-training run, or its encoder.safetensors or model.safetensors.

  timm       a folder for timm.create_model: by name with checkpoint_path (strict), or local-dir:
  hf         a folder for transformers: AutoModel (ViTModel), AutoImageProcessor; in mae/ the pixel
             decoder too, for ViTMAEForPreTraining
  retfound   {"model": ...} with MAE's names in a .pth, for --finetune of RETFound and of MAE
  open_clip  a folder for open_clip.create_model_and_transforms: both towers; needs a run with text
  onnx       the image encoder for ONNX Runtime, any number of images at a time

The weights are opened again by the other library, where it is installed, and must give the run's
features; the last line printed opens them."""
TARGETS = ("timm", "hf", "retfound", "open_clip", "onnx")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Where the weights go."""

    to: str = ""  # timm, hf, retfound, open_clip or onnx
    out: str = ""  # folder that is written; empty: RUN/export/TARGET


def read(arguments: Sequence[str]) -> tuple[Path, ExportConfig]:
    """Return (run, options) of a command line; mistakes end the program in one line."""
    words, flags = read_flags(list(arguments))
    check_flags(USAGE, ExportConfig(), flags)
    if len(words) != 1:
        stop(f"{len(words)} runs given; name one run directory or file of weights, or see --help")
    options = ExportConfig(**flags)
    if options.to not in TARGETS:
        near = difflib.get_close_matches(options.to, TARGETS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(TARGETS)}"
        stop(f"--to {options.to or 'is missing'}; {hint}")
    if options.out == "True":  # what Fire gives for a flag without a value
        stop("--out needs a folder; see --help")
    return Path(words[0]), options


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command; mistakes end in one line and exit code 2."""
    run, options = read(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("maskedclip").setLevel(logging.INFO)  # the other libraries tell much
    with one_line_errors():
        from maskedclip.weights.export import export  # torch only when there is work for it

        sys.stdout.write(export(run, options.to, Path(options.out) if options.out else None))

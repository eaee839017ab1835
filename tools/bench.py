"""Measure speed: `python tools/bench.py NAME [--json]`; the last line is one JSON object.

A ratio is none, and `disturbed` says why, where its turns differ by more than a half or other
programs took more than a tenth of the processors meanwhile (`others_share`).

loader, stalls and step need `pip install -e '.[bench]'`.

phantom   images drawn a second on one core at 224 px, against the 30 that were promised; the median
          of 5 rounds of 60 phantoms of all diseases
shards    photographs of 2048 x 1536 to shards of 512 px by make_shards (field of view, hashes, tar,
          index, manifest, contact sheet, splits) against plain Pillow (open, convert, crop,
          resize, save) in as many processes, in turn; the median of --rounds 5. There are --images
          1000 files, links to 60 different ones: phantoms with the noise and the bytes of a
          camera's photographs, or those of --root DIR, resized
loader    the stream of pre-training, of unpaired images cut to 224 px (areas of 0.2 to 1), against
          webdataset, Pillow, torchvision and a DataLoader with the best of 0 to 4 workers, and
          against decoding and cropping alone on all cores (the ceiling), in turns of a second; the
          median of --rounds 15. The shards are phantoms with a camera's noise of --size 256, 512
          (default) or 2048 (not cut: 2048 x 1536), or those of --root DIR. --fidelity fast, fine or
          exact
stalls    the stream as above from a storage on which one read in a hundred takes 200 ms more, and
          from that with its tars staged (data.stage), against the same without, in turn; the median
          of --rounds 15. --size, --root as above
reads     samples read and checked a second from one tar in the page cache, against webdataset's
          plain iteration; the median of --rounds 5. --size, --root as above
save      seconds that a checkpoint keeps training waiting, of --millions 50 parameters and their
          moments, aside and at once, against torch's plain dcp.save; the median of --rounds 5
frozen    seconds of a frozen protocol on --images 500 phantoms of 512 px at --size small on the
          processor, --threads 2: logistic regression with no features cached (promised: under a
          minute; ratio is 60 s over it), then each protocol from the cached features
start     from the command to the first step of `demo`, its phantoms drawn before: seconds, and
          processor seconds of all its processes; ratio is the 8 s that were promised for 2 cores
          over it; the median of --rounds 5
report    processor time of the tables, figure and pages of 252 runs; ratio is 69 s over it, what it
          took while matplotlib drew the pages
board     seconds from opening a page of TensorBoard (headless chromium) to its first chart, of a
          server that has just started and of one that has read all, with --runs 256 of --steps
          100000, and the server's peak memory; ratio is the 3 s that were promised over it
near      processor time of check_shards (damage, copies) on the datasets in --root DIR, --rounds 2;
          ratio is 120 s over it, promised for the 7,787 photographs of docs/leakage.md
step      images trained a second in bf16 on a GPU, else on all cores, --size large (or micro, tiny,
          small, base), --paired 4 and --unpaired 4 a step, against the same method from public
          parts under autocast (transformers' ViTMAE and BERT, timm's blocks, open_clip's loss); the
          share of the rate of square products, and peak memory of both; the median of --rounds 3
gpu       a step on one GPU, in nine minutes: as it is, with each kernel of attention, compiled, in
          parts, with recomputing, of smaller encoders, a save, fine-tuning; beside the plan's
          memory, what the host waits for, and the longest kernels. A table for docs/plan.md. No GPU
          has run it: --device cpu --size micro rehearses it on the processor
"""

import importlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import CommandLine, Options, Word, one_line_errors

PROMISED = 30  # phantoms a second and core


def phantom() -> dict[str, float | str | None]:
    """Return the median speed of drawing and its spread."""
    import cv2
    from benches.turns import OtherWork, called

    from maskedclip.shards.phantoms.phantom import draw

    cv2.setNumThreads(1)
    draw(0)
    speeds = []
    others = OtherWork()
    for turn in range(5):
        start = time.perf_counter()
        for seed in range(60 * turn, 60 * (turn + 1)):
            draw(seed)
        speeds.append(60 / (time.perf_counter() - start))
    return {
        "images_per_s": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        **called(others.share(), ratio=[speed / PROMISED for speed in speeds]),
    }


# name: (module, flags); the modules load torch and more, --help does not
BENCHES: Mapping[str, tuple[str, Sequence[str]]] = {
    "phantom": (__name__, ()),
    "shards": ("benches.shards", ("images", "rounds", "root")),
    "loader": ("benches.loader", ("size", "rounds", "root", "fidelity")),
    "stalls": ("benches.stalls", ("size", "rounds", "root")),
    "reads": ("benches.reads", ("size", "rounds", "root")),
    "save": ("benches.save", ("millions", "rounds")),
    "frozen": ("benches.frozen", ("images", "size", "threads")),
    "report": ("benches.report", ()),
    "board": ("benches.board", ("runs", "steps")),
    "start": ("benches.start", ("rounds",)),
    "near": ("benches.near", ("root", "rounds")),
    "step": ("benches.step", ("size", "paired", "unpaired", "rounds")),
    "gpu": ("benches.gpu", ("device", "size")),
}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured; None is the benchmark's own value."""

    size: str | None = None  # pixels of the images, or size of the encoder
    images: int | None = None
    rounds: int | None = None
    millions: int | None = None  # parameters
    runs: int | None = None
    steps: int | None = None  # of a run
    paired: int | None = None  # images a step
    unpaired: int | None = None  # images a step
    threads: int | None = None
    fidelity: Literal["fast", "fine", "exact"] | None = None  # of a crop
    device: Literal["cuda", "cpu"] | None = None
    root: str | None = None  # directory of photographs or shards to measure with
    json: bool = False  # the JSON object alone

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise ValueError(f"--{name}={value}: is at least 1")


BENCH = CommandLine(Options(BenchConfig()), words=[Word("BENCHMARK", choices=BENCHES)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one benchmark and print its numbers."""
    given = BENCH.read(__doc__, arguments)
    with one_line_errors():
        (name,) = given.words
        module, flags = BENCHES[name]
        config = asdict(given.config())
        as_json = config.pop("json")
        asked = {flag: value for flag, value in config.items() if value is not None}
        for flag in asked.keys() - set(flags):
            takes = ", ".join(f"--{own}" for own in flags) or "none but --json"
            raise ValueError(f"--{flag}: {name} does not take it; it takes {takes}")
        numbers = getattr(importlib.import_module(module), name)(**asked)
    if not as_json:
        for name, value in numbers.items():
            if name == "table":
                print(value)
                continue
            print(f"{name:24} {f'{value:.3g}' if isinstance(value, float | int) else value}")
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()

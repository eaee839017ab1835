"""Try to break it: `python tools/torture.py --minutes N [--only SECTIONS] [--seed S]`.

Each section repeats its trials until its share of the time is spent, or its number is reached.
A trial is refused (named in a line, and what is left is right), harmless (nothing changed),
SILENT (a wrong value and no word) or LOST (good data is gone, or the program broke). Exit code 1
where any of ours is SILENT or LOST; the command that repeats each is printed. The rows of other
systems are the same damage to their files. Needs `pip install -e '.[test]'`.

checkpoints  files of the newest checkpoint damaged; beside torch.save, DCP and safetensors
shards       tars, indices and manifests damaged; beside webdataset
images       JPEGs damaged within a shard; beside their decoders alone
weights      exports, fine-tuned networks and a .pth damaged; beside safetensors and torch.load
hostile      artefacts that would run code, fill the memory or wait for ever, and user mistakes
saves        each file call of a save failing, once and for ever, with five codes; needs gcc
kills        pre-training on one rank and on two, fine-tuning, make_shards, an export killed at
             random instants and given again
elastic      a run whose ranks change at each start, of 1 to 4: each sample once an epoch
ranks        a rank that is stopped; a gradient that is nan, or whose exponent flips, on one
             rank; a copy of the weights that differs by a bit
soak         a long run: memory, handles, threads, shared memory
clocks       the system's time jumping an hour back and forth; needs libfaketime
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.casting import did_you_mean
from maskedclip.command import CommandLine, Options, one_line_errors

# modules of tortures, which load torch and more; --help does not
SECTIONS = (
    "checkpoints", "shards", "images", "weights", "hostile", "saves", "kills", "elastic", "ranks",
    "soak", "clocks",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TortureConfig:
    """What is tried, and for how long."""

    minutes: float = 10.0  # of trials, of all sections; what they are made of takes more
    only: tuple[str, ...] = ()  # sections; none: all
    seed: int | None = None  # of the random numbers; none: another each time, which is printed
    number: int | None = None  # of the one trial to repeat, of the one section
    trials: int | None = None  # at most, of each section; none: the section's own number

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"--minutes={self.minutes:g}: use more than 0")
        for name in self.only:
            if name not in SECTIONS:
                near = did_you_mean(name, SECTIONS, f"use some of {','.join(SECTIONS)}")
                raise ValueError(f"--only={name}: no such section; {near}")
        if self.number is not None and (len(self.only) != 1 or self.seed is None):
            raise ValueError("--number: give --only=SECTION and --seed=S with it, as was printed")
        for name in ("seed", "number", "trials"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"--{name}={getattr(self, name)}: use 0 or more")


TORTURE = CommandLine(Options(TortureConfig()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections and print the table; return the exit code."""
    given = TORTURE.read(__doc__, arguments)
    with one_line_errors():
        config: TortureConfig = given.config()
        from tortures.suite import Suite

        seed = random.SystemRandom().randrange(2**32) if config.seed is None else config.seed
        print(f"seed {seed}", flush=True)
        sections = config.only or SECTIONS
        suite = Suite(seed, config.minutes, most=config.trials, number=config.number)
        for place, section in enumerate(sections):
            suite.run(section, len(sections) - place)
    failures = suite.failures()
    print("\n".join([*suite.table(), *suite.notes, *failures]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

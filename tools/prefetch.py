"""Fetch text tower and first weights for nodes without network; `--help` says more."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import one_line_errors, read_config, read_flags
from maskedclip.weights.prefetch import USAGE, PrefetchConfig, prefetch

if __name__ == "__main__":
    config, options = read_config(USAGE, PrefetchConfig(), default="maskedclip_vitl")
    words, flags = read_flags()
    changes = [f"--{name}={value}" for name, value in flags.items() if name != "cache"]
    with one_line_errors():
        named = " ".join([*(words or ["maskedclip_vitl"]), *changes])
        sys.stdout.write(prefetch(config, named, options))

"""Measure speed: `python tools/bench.py phantom [--json]`; the last line is one JSON object.

phantom   images drawn a second on one core at 224 px, against the 30 that were promised; the median
          of 5 rounds of 60 phantoms of all diseases
"""

import json
import statistics
import sys
import time

from maskedclip.command import read_flags, stop

PROMISED = 30  # images a second and core


def phantom() -> dict[str, float]:
    """Return the median speed of drawing and its spread."""
    import cv2

    from maskedclip.data.phantom import draw

    cv2.setNumThreads(1)
    draw(0)
    speeds = []
    for turn in range(5):
        start = time.perf_counter()
        for seed in range(60 * turn, 60 * (turn + 1)):
            draw(seed)
        speeds.append(60 / (time.perf_counter() - start))
    middle = statistics.median(speeds)
    return {
        "images_per_s": middle,
        "lowest": min(speeds),
        "highest": max(speeds),
        "ratio": middle / PROMISED,
    }


BENCHES = {"phantom": phantom}


if __name__ == "__main__":
    words, flags = read_flags()
    if flags.keys() & {"help", "h"} or not words:
        sys.stdout.write(__doc__)
        raise SystemExit(0)
    if words[0] not in BENCHES or len(words) > 1 or flags.keys() - {"json"}:
        stop(f"{' '.join(sys.argv[1:])}: use one of {', '.join(BENCHES)}, and --json at most")
    found = BENCHES[words[0]]()
    if "json" not in flags:
        for name, value in found.items():
            print(f"{name:14} {value:.2f}")
    print(json.dumps(found))

"""Fetch weights for nodes without network; `python tools/prefetch.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.weights.prefetch import main

if __name__ == "__main__":
    main()

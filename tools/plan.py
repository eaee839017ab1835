"""Count what a run will cost before it runs; `python tools/plan.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.plan.cost import main

if __name__ == "__main__":
    main()

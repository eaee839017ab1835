"""Examine this machine before a run; `python tools/doctor.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.doctor.examine import main

if __name__ == "__main__":
    raise SystemExit(main())

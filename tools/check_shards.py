"""Check shards for damage and for leakage; `python tools/check_shards.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.shards.check_command import main

if __name__ == "__main__":
    main()

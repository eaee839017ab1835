"""Write a dataset's splits anew; `python tools/make_splits.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.shards.splits_command import main

if __name__ == "__main__":
    main()

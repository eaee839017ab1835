"""Hand a run's weights to other libraries; `python tools/export_weights.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.weights.export import main

if __name__ == "__main__":
    main()

"""Checkpoints with more than tensors in them, as safetensors; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.weights.convert import main

if __name__ == "__main__":
    main()

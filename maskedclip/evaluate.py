"""What an encoder knows without fine-tuning: a linear probe on it, and zero-shot by its texts.

    python -m maskedclip.evaluate RUN_OR_WEIGHTS --datasets shards/idrid,shards/eyepacs
"""

if __name__ == "__main__":  # before torch is imported: --help and mistakes answer at once
    from maskedclip.downstream_command import read_evaluate

    OPTIONS = read_evaluate(__doc__)

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskedclip.data.captions import prompts
from maskedclip.data.downstream import Sample, Task, divide, labelled, share_of
from maskedclip.data.shards import DamagedSample, Shards
from maskedclip.data.views import prepared_batches
from maskedclip.eval import results
from maskedclip.eval.probes import linear_probe
from maskedclip.eval.scores import METRICS, score
from maskedclip.eval.zeroshot import categories
from maskedclip.inference import Model, load, name_of
from maskedclip.models.pretrained import load_encoder

logger = logging.getLogger(__name__)

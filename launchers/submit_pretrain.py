"""Pre-train on SLURM, or on this machine where there is none.

    python launchers/submit_pretrain.py [RECIPE] --nodes 1 --gpus 4 [--name NAME] [--out runs]
        [--cluster auto|slurm|local|debug] [--dry_run] [--SECTION.FIELD=VALUE ...]

Without RECIPE it is maskedclip_vitl, the paper's. The same command again resumes from the
newest checkpoint. `demo` needs no data and no GPU.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import one_line_errors, read_config
from maskedclip.config import LaunchConfig

if __name__ == "__main__":
    config, launch, *_ = read_config(__doc__, LaunchConfig(), "maskedclip_vitl")
    with one_line_errors():
        from maskedclip.jobs.submit import submit

        submit(config, launch)

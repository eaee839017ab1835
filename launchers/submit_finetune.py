"""Fine-tune weights on many tasks, label fractions and seeds: the cells of a table.

    python launchers/submit_finetune.py RUN_OR_WEIGHTS[,MORE] --datasets paper|DIR,DIR
        --fractions 0.1,1.0|efficiency --seeds 5 [--recipe R] [--out runs] [--dry_run]
        [--cluster auto|slurm|local] [--name NAME] [--parallelism N] [--gpus 1] [--FIELD=VALUE ...]

On SLURM they are one array, and a report behind it; OUT/grids/NAME holds what was submitted. On
this machine they run one after another without a grid. With --name, or --parallelism above 1, they
are a grid with its report here too, each in a process with a log of its own. The same command again
continues: what is finished is not run again, what was killed resumes from its last saved epoch. A
failure is reported at the end and stops no other; the exit code is then 1.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import one_line_errors
from maskedclip.grid.study_command import read_study

if __name__ == "__main__":
    STUDY = read_study(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        from maskedclip.grid.start import start_study

        raise SystemExit(start_study(STUDY))

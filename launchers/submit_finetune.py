"""Fine-tune weights on many tasks, label fractions and seeds: the cells of a table.

    python launchers/submit_finetune.py RUN_OR_WEIGHTS[,MORE] --datasets paper|DIR,DIR
        --fractions 0.1,1.0|efficiency --seeds 5 [--recipe R] [--out runs] [--dry_run]
        [--FIELD=VALUE ...]

The fine-tunings run here, one after another; arrays of SLURM jobs are not made yet. The same
command again goes on: what is finished is not run again, what was killed goes on from its last
saved epoch. One that fails is named at the end and stops no other; the exit code is then 1.
"""

import logging

from maskedclip.command import one_line_errors
from maskedclip.study_command import read_study

if __name__ == "__main__":
    STUDY = read_study(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        from maskedclip.study import run

        raise SystemExit(run(STUDY))

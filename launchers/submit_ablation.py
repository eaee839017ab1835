"""Pre-train the systems of Tables 1 and 2, fine-tune each on the tables' tasks, and report.

    python launchers/submit_ablation.py --nodes 1 --gpus 4 [--table 1|2|both]
        [--datasets paper|DIR,DIR] [--fractions 0.1,1.0] [--seeds 5] [--parallelism N]
        [--name NAME] [--out runs] [--cluster auto|slurm|local] [--dry_run]
        [--finetune.FIELD=VALUE ...] [--SECTION.FIELD=VALUE ...]

On SLURM it is an array of pre-trainings, behind each of them an array of its fine-tunings, and
behind all of them the report; a failure holds up only what depends on it. Elsewhere as many
processes as --parallelism says do the same. The same command again starts only what is missing.
OUT/grids/NAME holds the grid: grid.json, jobs.jsonl, logs, code, runs, report.
--dry_run prints the scripts, the arrays and the cost, and writes nothing.

The whole chain on a CPU with phantoms, Table 2 in about ten minutes on 2 cores:

    python tools/make_shards.py phantom --count 200 --seed 9000000 --size 96 --name phantom_labelled
    python launchers/submit_ablation.py --cluster local --gpus 0 --table 2 --name try --base demo
        --datasets shards/phantom_labelled --task disease --fractions 1.0 --seeds 1
        --optim.steps=60 --finetune.epochs=3 --finetune.warmup_epochs=1 --parallelism 2

--base applies the differences of another recipe from the paper's run, here demo's phantoms (of
other numbers than the labelled ones) and small networks; fields given on the command line override
both. What a system's recipe turns off (a number that is 0) stays off.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import one_line_errors
from maskedclip.grid.ablation_command import read_ablation

if __name__ == "__main__":
    ASKED = read_ablation(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        from maskedclip.grid.start import start_ablation

        raise SystemExit(start_ablation(ASKED))

"""Pre-train over values of fields and seeds, measure each run, and report them in one table.

    python launchers/submit_sweep.py RECIPE[,RECIPE] --sweep loss.clip=0.01,0.1 --seeds 3
        [--sweep FIELD=VALUE,VALUE ...] [--datasets paper|DIR,DIR] [--shots 10]
        [--protocols logistic,knn,finetune] [--fractions 1.0] [--parallelism N] [--name NAME]
        [--out runs] [--cluster auto|slurm|local] [--dry_run] [--finetune.FIELD=VALUE ...]
        [--SECTION.FIELD=VALUE ...]

Every combination of recipes and swept values is a point, named after what sets it apart; any field
of a recipe can be swept. A point is pre-trained with the seeds --seed, --seed + 1, ..., and each
run is measured with its own seed: by evaluate's protocols, and fine-tuned where `finetune` is among
them. One report has a row a point, over its seeds. On SLURM these are arrays behind one another,
elsewhere as many processes as --parallelism says. The same command again starts only what is
missing; further values, seeds and protocols are added to the grid of that --name.

On a CPU with phantoms, in minutes:

    python launchers/submit_sweep.py demo --cluster local --gpus 0 --sweep loss.clip=0.1,1
        --seeds 2 --optim.steps=60 --parallelism 2

With several recipes, or --base, what a recipe turns off stays off, as in submit_ablation; a swept
field is set in any case. Values that are lists are separated by semicolons:
--sweep 'data.paired=shards/a,shards/b;shards/c'.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import one_line_errors
from maskedclip.grid.sweep_command import read_sweep

if __name__ == "__main__":
    ASKED = read_sweep(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        from maskedclip.grid.start import start_sweep

        raise SystemExit(start_sweep(ASKED))

"""A run as a job: picklable, repeatable, and left so that SLURM can queue it again.

A job may be killed at any moment and run again: it goes on from the newest checkpoint in its run
directory and keeps nothing anywhere else.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from maskedclip.config import Config

if TYPE_CHECKING:
    import submitit

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """Pre-train, then measure: picklable, repeatable, the same on every rank."""

    config: Config

    def __call__(self) -> None:
        run = as_a_job(self.pretrain)
        if os.environ.get("RANK", "0") == "0":
            self.measure(run)

    def pretrain(self) -> Path:
        """Take this rank's part in the run, and return its directory."""
        from maskedclip.pretrain import pretrain

        if "SUBMITIT_EXECUTOR" in os.environ:
            import submitit

            # SLURM's own list of GPUs stays; submitit would write the local rank over it
            environment = submitit.helpers.TorchDistributedEnvironment()
            environment.export(set_cuda_visible_devices=False, overwrite=True)
        return pretrain(self.config)

    def measure(self, run: Path) -> None:
        """Print the scores of the encoder on `after.datasets`, and what to try next."""
        after = self.config.after
        if after.datasets:
            from maskedclip.evaluate import evaluate

            datasets = [(Path(directory), after.task) for directory in after.datasets]
            evaluate(run, datasets, after.protocols, run)
        dataset = after.datasets[0] if after.datasets else "shards/DATASET"
        sys.stdout.write(
            f"\n{run} is done. Next:\n"
            f"  tensorboard --logdir {self.config.out}\n"
            f"  python -m maskedclip.finetune {run} --dataset {dataset} --fraction 0.1\n"
        )
        sys.stdout.flush()

    def checkpoint(self, *_: Any) -> "submitit.helpers.DelayedSubmission":
        """Return the very same job: submitit calls this on pre-emption and at the time limit."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def as_a_job(work: Callable[[], T]) -> T:
    """Return work(); where it was asked to leave and has saved, have SLURM queue the job again.

    Outside of a job `Preempted` is raised.
    """
    requeue = signal.getsignal(signal.SIGUSR2)
    if "SUBMITIT_EXECUTOR" in os.environ:
        # submitit's handler only logs it; where nothing can be saved the end may come at once
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _forget_signals_in_children()
    from maskedclip.engine.preemption import GO_ON_LATER, Preempted

    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    if "SUBMITIT_EXECUTOR" in os.environ:
        logging.getLogger("submitit").setLevel(logging.WARNING)
    try:
        return work()
    except Preempted as stop:
        if "SUBMITIT_EXECUTOR" not in os.environ:
            raise
        logging.getLogger(__name__).info("%s", stop)
        if stop.asked == GO_ON_LATER:
            _go_on_later(requeue)
        raise SystemExit(128 + signal.SIGTERM) from None


def _go_on_later(requeue: Any) -> NoReturn:
    """End this rank of a run that has been saved; rank 0 has submitit queue the job again."""
    # a second one would break off the requeueing, and end scontrol
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("RANK", "0") == "0" and not _queued_again():
        try:
            requeue(signal.SIGUSR2, None)
        except subprocess.CalledProcessError:
            if not _queued_again():
                raise
    raise SystemExit(0)  # neither a result nor, to srun, a failure


def _queued_again() -> bool:
    """Return whether SLURM itself has queued this life's job again, as it does with evicted ones.

    To ask for it a second time fails, or ends the next life as it starts.
    """
    command = ["scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    facts = dict(word.partition("=")[::2] for word in told.split())
    lives = os.environ.get("SLURM_RESTART_COUNT", "0")  # before this one
    return facts["JobState"] != "RUNNING" or facts["Restarts"] != lives


def _forget_signals_in_children() -> None:
    """Keep forked children from requeueing the job: they would inherit submitit's handlers."""

    def reset() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    os.register_at_fork(after_in_child=reset)

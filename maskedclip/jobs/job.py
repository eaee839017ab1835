"""A run as a job: picklable, repeatable, and left so that SLURM can queue it again.

A job may be killed at any moment and started again: each attempt goes on from the newest checkpoint
in the run directory, and nothing is kept anywhere else.
"""

import atexit
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from maskedclip.command import log_lines
from maskedclip.config import Config
from maskedclip.engine.device_settings import grow_segments
from maskedclip.next_step import curves_commands, finetune_command

if TYPE_CHECKING:
    import submitit

T = TypeVar("T")
# the job's interpreter: it holds SLURM's warning back until there is a handler for it (as_a_job),
# which takes minutes where a cold file system hands out torch. Blocked and not ignored, as the
# kernel keeps it then, across exec. Without site-packages this start takes 10 ms.
_HOLD = (
    "import _signal as s, os, sys; s.pthread_sigmask(s.SIG_BLOCK, {s.SIGUSR2}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
NOT_QUEUED = "_not_queued_again.txt"  # behind a job's number: the mark of one that is saved
_GRACE_S = 115.0  # for which a silent SLURM is asked again; the warning comes 120 s before the end
_ASK_AGAIN_S, _ANSWER_S = 3.0, 20.0


def interpreter(python: str) -> str:
    """Return what starts Python in a job of SLURM, as a shell reads it.

    Args:
        python: of cluster.toml; empty: the one that runs now.
    """
    return f"{python or quote(sys.executable)} -IS -c {quote(_HOLD)}"


class Repeatable(ABC):
    """A job that submitit queues again as it is: it goes on from its own files."""

    @abstractmethod
    def __call__(self) -> None:
        """Do the work, or what is left of it."""

    def checkpoint(self, *_: Any) -> "submitit.helpers.DelayedSubmission":
        """Return the very same job: submitit calls this on pre-emption and at the time limit."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class Job(Repeatable):
    """Pre-train, then measure: picklable, repeatable, the same on every rank."""

    config: Config
    gpus: int | None = None  # a node, as asked for; None: not stated
    devices: tuple[str, ...] | None = None  # of CUDA_VISIBLE_DEVICES; None: as the scheduler has it

    def __call__(self) -> None:
        run = as_a_job(self.pretrain)
        if os.environ.get("RANK", "0") == "0":
            with mistakes_in_one_line():
                self.measure(run)
        if "SUBMITIT_EXECUTOR" in os.environ:
            atexit.register(_end_at_once)

    def pretrain(self) -> Path:
        """Take this rank's part in the run, and return its directory."""
        from maskedclip.pretrain.loop import pretrain

        if self.devices is not None:  # submitit numbers them from 0, whatever the mask says
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        check_gpus(self.gpus)
        if "SUBMITIT_EXECUTOR" in os.environ:
            import submitit

            # SLURM's own list of GPUs stays; submitit would write the local rank over it
            environment = submitit.helpers.TorchDistributedEnvironment()
            environment.export(set_cuda_visible_devices=False, overwrite=True)
            os.environ["MASTER_PORT"] = str(_port(submitit.JobEnvironment().job_id))
        else:
            _take_ranks_of_srun()
        return pretrain(self.config)

    def measure(self, run: Path) -> None:
        """Print the scores of the encoder on `after.datasets`, and what to try next."""
        after = self.config.after
        if after.datasets:
            from maskedclip.evaluate.protocols import evaluate

            datasets = [(Path(directory), after.task) for directory in after.datasets]
            rows = evaluate(run, datasets, after.protocols, run)
            if after.beside_start:
                self._measure_start(run, rows, datasets)
        data = self.config.data
        tune = finetune_command(run, after.datasets, (*data.paired, *data.unpaired))
        curves = "".join(f"  {line}\n" for line in curves_commands(Path(self.config.out)))
        sys.stdout.write(f"\n{run} is done. Next:\n{curves}  {tune}\n{self._said_of_tests()}")
        sys.stdout.flush()

    def _measure_start(
        self, run: Path, rows: list[dict[str, Any]], datasets: list[tuple[Path, str]]
    ) -> None:
        """Print what the weights scored that it began from, and the differences; draw a picture.

        Args:
            rows: what the run has just scored; results.jsonl may hold those of other commands, too.
        """
        from maskedclip.evaluate.protocols import evaluate
        from maskedclip.explain.run_picture import Scored, differences, draw_run

        start, model = run.with_name(f"{run.name}-start"), self.config.model
        protocols = [name for name in self.config.after.protocols if name != "zeroshot"]
        begun = evaluate(
            self.config.init_from or "random", datasets, protocols or ["logistic"], start,
            size=model.size, image_size=model.image_size,
        )  # fmt: skip
        name = "weights it began from" if self.config.init_from else "untrained encoder"
        own, before = Scored("pre-trained", run, rows), Scored(name, start, begun)
        sys.stdout.writelines(f"{line}\n" for line in differences(own, before))
        draw_run(own, before, *datasets[0], run / "summary.png")
        sys.stdout.write(f"picture: {run / 'summary.png'}\n")

    def _said_of_tests(self) -> str:
        """Return what datasets not to be tested on without knowing it, "" where there are none."""
        from maskedclip.pretrain.preflight import pretraining_on_tests

        named = self.config.data.leave_out_tests_of  # may hold the sources' under another name
        found = "" if named else pretraining_on_tests(self.config)
        return f"Mind that {found}\n" if found else ""


def as_a_job(work: Callable[[], T]) -> T:
    """Return work(); where it was asked to stop and has saved, have SLURM queue the job again.

    Also where it was asked to before there was anything to save. Outside of a job `Preempted` is
    raised.
    """
    requeue = signal.getsignal(signal.SIGUSR2)
    if "SUBMITIT_EXECUTOR" in os.environ:
        # submitit's handler only logs it; where nothing can be saved the end may come at once
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        _mark().unlink(missing_ok=True)  # SLURM, or a person, has queued it again after all
        signal.signal(signal.SIGUSR2, _leave_at_once)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # held back: interpreter
    _forget_signals_in_children()
    grow_segments()
    from maskedclip.engine.preemption import REQUEUE, Preempted

    first = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if first else logging.WARNING
    log_lines(level, force=True)
    if "SUBMITIT_EXECUTOR" in os.environ:
        logging.getLogger("submitit").setLevel(logging.WARNING)
        _remove_half_a_result()
    try:
        with mistakes_in_one_line():
            return work()
    except Preempted as stop:
        if "SUBMITIT_EXECUTOR" not in os.environ:
            raise
        logging.getLogger(__name__).info("%s", stop)
        if stop.request == REQUEUE:
            _go_on_later(requeue)
        raise SystemExit(128 + signal.SIGTERM) from None


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Have an error that its line tells whole be one line in the log of a job, and no traceback."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        from maskedclip.command import is_mistake

        if "SUBMITIT_EXECUTOR" in os.environ and is_mistake(error):
            sys.excepthook = _one_line  # submitit keeps the traceback for itself, and raises again
        raise


def _one_line(_kind: type[BaseException], error: BaseException, _trace: object) -> None:
    """Print an uncaught error as grid/diagnosis.py reads it."""
    from maskedclip.command import in_words

    assert isinstance(error, Exception)
    sys.stderr.write(f"error: {in_words(error)}\n")


def check_gpus(wanted: int | None) -> None:
    """Hide the GPUs where none is wanted; RuntimeError where some are, and torch sees none."""
    if wanted == 0:  # without cgroups SLURM shows a job those that it was not given
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not wanted:
        return
    from maskedclip.engine.visible_gpus import compute_device

    if compute_device().type != "cuda":
        raise RuntimeError(f"--gpus {wanted}: there is no GPU here; use --gpus 0, or another node")


def _take_ranks_of_srun() -> None:
    """Be the rank that `srun -n N python -m maskedclip.pretrain` has made of this process.

    srun alone counts a step's tasks: a shell or a batch script of an allocation is one process.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in os.environ or not tasks.isdecimal() or int(tasks) < 2:
        return
    from submitit.slurm.slurm import _parse_node_list

    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', '0')}"
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(int(tasks) // int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))),
        "MASTER_ADDR": _parse_node_list(nodes)[0] if nodes else "127.0.0.1",
        "MASTER_PORT": str(_port(step)),
    }


def _port(job: str) -> int:
    """Return the port where all ranks of this attempt meet, another one than in the last attempt.

    The last one may still be taken. All lie below the ephemeral ports of the system.
    """
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return random.Random(f"{job}.{restarts}").randrange(20_000, 32_768)


def _end_at_once() -> None:
    """End the process of a rank whose work is done and stored, before native code is torn down.

    A native thread was seen to abort ranks there, behind the last Python frame ("terminate called
    without an active exception"): SLURM then called a finished run failed. Whose it is is open.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _remove_half_a_result() -> None:
    """Remove what an attempt killed at its end left; submitit would write no result then."""
    import submitit

    result = submitit.JobEnvironment().paths.result_pickle
    result.with_suffix(".pkl.save_tmp").unlink(missing_ok=True)


def _leave_at_once(_number: int, _frame: Any) -> NoReturn:
    """Leave where SLURM warns as a run starts, or is measured: all that counts is saved."""
    for number in (signal.SIGUSR2, signal.SIGTERM):  # another would break that off
        signal.signal(number, signal.SIG_IGN)
    sys.stderr.write("asked to stop outside of the training loop: it goes on in the next start\n")
    _go_on_later(None)


def _go_on_later(requeue: Any) -> NoReturn:
    """End this rank of a run that has been saved; rank 0 has the job queued again.

    `Preemption` has it ignore what would break that off.
    """
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        if os.environ["SUBMITIT_EXECUTOR"] == "slurm":
            _queue_again()
        else:
            requeue(signal.SIGUSR2, None)
    raise SystemExit(0)  # neither a result nor, to srun, a failure


def _queue_again() -> None:
    """Have SLURM queue this job again, unless it has done so itself, as with evicted ones.

    Not by submitit: it counts time-outs, and takes each attempt of a job of ten minutes for one; it
    also writes the same job anew, which a kill can break off. Where SLURM is silent it is asked
    again until the grace is over; what is left then, by a kill too, is a mark that `status` reads.
    """
    import submitit

    # of an array the element alone: the number that SLURM_JOB_ID has may stand for all of it
    job, mark = submitit.JobEnvironment().job_id, _mark()
    if shutil.which("scontrol") is None:  # a container: the job's shell has it (submit.teardown)
        mark.write_text(f"job {job} is saved, but SLURM does not queue it again; submit it again\n")
        raise SystemExit(1)  # a failure, unless the shell succeeds
    end, said = time.monotonic() + _GRACE_S, ""
    while silent := _silence(job):
        words = f"job {job} is saved, but SLURM does not queue it again ({silent}); submit it again"
        if time.monotonic() > end:
            raise RuntimeError(words)
        if not said:
            with suppress(OSError):  # of a full disk
                mark.write_text(f"{words}\n")
            sys.stderr.write(f"SLURM is silent ({silent}): asked again for {_GRACE_S:.0f} s\n")
        said = silent
        time.sleep(_ASK_AGAIN_S)
    mark.unlink(missing_ok=True)


def _mark() -> Path:
    """Return the file, among the job's logs, that says that a saved job was not queued again."""
    import submitit

    environment = submitit.JobEnvironment()
    return environment.paths.folder / f"{environment.job_id}{NOT_QUEUED}"


def _silence(job: str) -> str:
    """Ask SLURM to queue the job again; return "" where it is, else why SLURM does not answer.

    Raises RuntimeError where it answers, and refuses.
    """
    queued, silent = _queued_again(job)
    if queued or silent:
        return silent
    _, fault = _scontrol("requeue", job)
    if not fault:
        return ""
    queued, silent = _queued_again(job)  # by SLURM itself meanwhile
    if not queued and not silent:
        raise RuntimeError(
            f"job {job} is saved, but SLURM does not queue it again ({fault}); submit it again"
        )
    return silent


def _queued_again(job: str) -> tuple[bool, str]:
    """Return whether SLURM knows of a later attempt of the job than this one; why it is silent.

    To ask for another then fails, or ends the next attempt as it starts.
    """
    shown, fault = _scontrol("--oneliner", "show", "job", job)
    facts = dict(word.partition("=")[::2] for word in shown.split())
    if fault or not {"JobState", "Restarts"} <= facts.keys():
        return False, fault or "scontrol show job says nothing of it"
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return facts["JobState"] != "RUNNING" or facts["Restarts"] != restarts, ""


def _scontrol(*words: str) -> tuple[str, str]:
    """Return what scontrol says, and its last words where it fails."""
    try:
        done = subprocess.run(
            ["scontrol", *words], capture_output=True, text=True, check=False, timeout=_ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", " ".join(str(error).split())
    if not done.returncode:
        return done.stdout, ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return "", said[-1] if said else f"scontrol: exit code {done.returncode}"


def _forget_signals_in_children() -> None:
    """Keep forked children from requeueing the job: they would inherit submitit's handlers."""

    def reset() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)

    os.register_at_fork(after_in_child=reset)

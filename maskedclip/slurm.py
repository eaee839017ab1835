"""Where a run is carried out: in this process, in local ones, or on SLURM, always by one `Job`.

A job may be killed at any moment and run again: it goes on from the newest checkpoint in its run
directory and keeps nothing anywhere else.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from maskedclip.config import Config, LaunchConfig, check_shares

if TYPE_CHECKING:
    import submitit

_STOPPED = "stopped; the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Job:
    """Pre-train, then measure: picklable, repeatable, the same on every rank."""

    config: Config

    def __call__(self) -> None:
        requeue = signal.getsignal(signal.SIGUSR2)
        if "SUBMITIT_EXECUTOR" in os.environ:
            # submitit's handler only logs it; where nothing can be saved the end may come at once
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _forget_signals_in_children()
        from maskedclip.engine.preemption import GO_ON_LATER, Preempted
        from maskedclip.pretrain import pretrain

        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        if "SUBMITIT_EXECUTOR" in os.environ:
            import submitit

            logging.getLogger("submitit").setLevel(logging.WARNING)
            # SLURM's own list of GPUs stays; submitit would write the local rank over it
            environment = submitit.helpers.TorchDistributedEnvironment()
            environment.export(set_cuda_visible_devices=False, overwrite=True)
        try:
            run = pretrain(self.config)
        except Preempted as stop:
            if "SUBMITIT_EXECUTOR" not in os.environ:
                raise
            logging.getLogger(__name__).info("%s", stop)
            if stop.asked == GO_ON_LATER:
                _go_on_later(requeue)
            raise SystemExit(128 + signal.SIGTERM) from None
        if os.environ.get("RANK", "0") == "0":
            self.measure(run)

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


def submit(config: Config, launch: LaunchConfig) -> None:
    """Carry out the run where `launch` says; on local and debug, until it ends.

    Raises ValueError for more GPUs or nodes than there are, a batch that the ranks cannot share,
    or data that is not there; RuntimeError where the job fails.
    """
    cluster = cluster_of(launch)
    ranks = _ranks(launch, cluster)
    sizes = config.data.paired_batch, config.data.unpaired_batch
    check_shares(sizes, ranks * launch.nodes, config.optim.accumulate)
    folder = config.directory.resolve() / "jobs"
    if launch.dry_run:
        sys.stdout.write(plan(config, launch, cluster, ranks, folder))
        return
    from maskedclip.prepare import prepare

    prepare(config)
    if cluster == "debug":
        Job(config)()
        return
    import submitit

    if cluster == "local":
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
        # waiting threads sleep: beside another busy process spinning ones made a step 7 times
        # slower, and alone sleeping costs 7 % (docs/lab_notes.md, 2026-11-23)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # a run is expected to outlast its time limit, many times if need be
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=100)
    executor.update_parameters(**_parameters(config, launch, cluster, ranks))
    folder.mkdir(parents=True, exist_ok=True)
    with stderr_to(folder / "submitit.log"), _deaf_to_ctrl_c():
        job = executor.submit(Job(config))
    if cluster == "slurm":
        sys.stdout.write(
            f"submitted job {job.job_id}: {config.directory}\n"
            f"  log        tail -F {job.paths.stderr}\n"
            f"  curves     tensorboard --logdir {config.out}\n"
            f"  state      squeue -j {job.job_id}\n"
        )
        return
    _follow(job)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let what is started meanwhile ignore Ctrl-C: submitit's local watcher kills at once on it."""
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ours)


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Point stderr at a file: submitit's local watcher inherits it, and is loud when stopped."""
    ours = os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


def plan(config: Config, launch: LaunchConfig, cluster: str, ranks: int, folder: Path) -> str:
    """Return what would be submitted, for SLURM with the sbatch script, and on GPUs its cost."""
    share = (config.data.paired_batch + config.data.unpaired_batch) / (ranks * launch.nodes)
    lines = [
        f"cluster      {cluster}",
        f"ranks        {launch.nodes} nodes x {ranks}, {share:g} images each a step",
        f"run          {config.directory}",
        f"paired       {', '.join(config.data.paired) or 'none'}",
        f"unpaired     {', '.join(config.data.unpaired) or 'none'}",
    ]
    if cluster == "slurm":
        from submitit.slurm.slurm import _make_sbatch_string

        wanted = _parameters(config, launch, cluster, ranks)
        plain = {name.removeprefix("slurm_"): value for name, value in wanted.items()}
        plain["time"] = plain.pop("timeout_min")
        plain["ntasks_per_node"] = plain.pop("tasks_per_node")
        plain["job_name"] = plain.pop("name")
        if "mem_gb" in plain:
            plain["mem"] = f"{plain.pop('mem_gb')}GB"
        command = f"{sys.executable} -u -m submitit.core._submit {folder}"
        lines += ["", _make_sbatch_string(command=command, folder=folder, **plain)]
    if launch.gpus:
        from maskedclip.plan import plan as cost
        from maskedclip.plan_report import report

        lines += ["", report(cost(config, nodes=launch.nodes, gpus=ranks, gpu=launch.card))]
    return "\n".join(lines) + "\n"


def _parameters(config: Config, launch: LaunchConfig, cluster: str, ranks: int) -> dict[str, Any]:
    """Return what submitit is to be told; unset options are left out."""
    wanted: dict[str, Any] = {
        "name": config.name,
        "nodes": launch.nodes,
        "tasks_per_node": ranks,
        "gpus_per_node": launch.gpus,
        "timeout_min": round(launch.hours * 60),
    }
    if cluster == "slurm":
        wanted |= {
            "cpus_per_task": launch.cpus_per_rank,
            "mem_gb": launch.memory_gb,
            "slurm_partition": launch.partition,
            "slurm_account": launch.account,
            "slurm_qos": launch.qos,
            "slurm_constraint": launch.constraint,
            "slurm_additional_parameters": _sbatch_options(launch) or None,
            "slurm_signal_delay_s": 120,
            # one rank's failure ends the others at once instead of at NCCL's timeout
            "slurm_srun_args": ["--kill-on-bad-exit=1"],
            "slurm_setup": [*launch.setup, "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],
        }
    return {name: value for name, value in wanted.items() if value is not None}


def _sbatch_options(launch: LaunchConfig) -> dict[str, str | bool]:
    """Return the further options by name; one without a value is True, as submitit writes it."""
    split = (line.removeprefix("--").partition("=") for line in launch.sbatch)
    return {name: value if equals else True for name, equals, value in split}


def cluster_of(launch: LaunchConfig) -> str:
    """Return slurm, local or debug; ValueError where SLURM is wanted and does not answer."""
    present = shutil.which("sbatch") is not None
    if launch.cluster in ("local", "debug") or (launch.cluster == "auto" and not present):
        return "local" if launch.cluster == "auto" else launch.cluster
    if launch.dry_run:
        return "slurm"
    if not present:
        raise ValueError("--cluster slurm: no sbatch on this machine; use --cluster local")
    # not local by itself: on a login node that would be the wrong machine
    answer = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, check=False)
    if answer.returncode:
        words = (answer.stdout + answer.stderr).strip().splitlines() or ["no answer"]
        raise ValueError(
            f"sbatch is here, but SLURM does not answer ({words[-1]}); try again later, or run on "
            f"this machine with --cluster local"
        )
    return "slurm"


def _ranks(launch: LaunchConfig, cluster: str) -> int:
    """Return the processes a node; ValueError where this machine cannot carry them."""
    if cluster == "slurm":
        return launch.gpus or (launch.cpu_ranks if launch.gpus == 0 else 1)
    if launch.nodes > 1:
        raise ValueError(f"--nodes {launch.nodes}: several nodes need SLURM; use --nodes 1")
    import torch

    present = torch.cuda.device_count()
    wanted = present if launch.gpus is None else launch.gpus
    if wanted > present and not launch.dry_run:
        raise ValueError(
            f"--gpus {wanted}: this machine has {present}; use --gpus {present}, or submit where "
            f"SLURM is"
        )
    ranks = wanted or launch.cpu_ranks
    return 1 if cluster == "debug" else ranks


def _follow(job: Any) -> None:
    """Show a local job's lines as they come; RuntimeError with its own last words if it fails.

    Ctrl-C and SIGTERM are passed on to its ranks, which save and leave.
    """
    shown = [0, 0]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            _show_until_done(job, shown)
        except KeyboardInterrupt:
            sys.stderr.write("saving; a second Ctrl-C does not wait for it\n")
            job._process.terminate()  # submitit's watcher, which passes it on
            _show_until_done(job, shown)
    except KeyboardInterrupt:
        raise RuntimeError(_STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if not job.paths.result_pickle.exists():  # told to stop, hung, or killed
        raise RuntimeError(f"{_STOPPED} (whole log: {job.paths.stderr})")
    raise_if_failed(job)


def _show_until_done(job: Any, shown: list[int]) -> None:
    paths = (job.paths.stderr, job.paths.stdout)
    while not job.done():
        _relay(paths, shown)
        time.sleep(0.2)
    _relay(paths, shown)


def raise_if_failed(job: Any) -> None:
    """Raise RuntimeError with the last words of a job that has ended badly."""
    error = job.exception()
    if error is not None:
        lines = [line for line in str(error).splitlines() if line.strip("- ")]
        causes = [line for line in lines if line[:1].isalpha() and "Error: " in line]
        raise RuntimeError(
            f"{(causes or lines)[-1].split('Error: ', 1)[-1]} (whole log: {job.paths.stderr})"
        )


def _relay(paths: tuple[Path, Path], shown: list[int]) -> None:
    streams: tuple[TextIO, TextIO] = (sys.stderr, sys.stdout)
    for which, (path, stream) in enumerate(zip(paths, streams, strict=True)):
        if not path.exists():
            continue
        with path.open() as file:
            file.seek(shown[which])
            text = file.read()
            shown[which] = file.tell()
        # submitit's own lines (name, level, time) are not the user's concern
        lines = [x for x in text.splitlines(keepends=True) if not x.startswith("submitit ")]
        stream.write("".join(lines))
        stream.flush()

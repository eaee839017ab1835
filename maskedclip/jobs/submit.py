"""Where a run is carried out: in this process, in local ones, or on SLURM, always by one `Job`."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from maskedclip.config import Config, LaunchConfig, check_divisible, override, save
from maskedclip.engine.closed_terminal import stops_as_by_ctrl_c
from maskedclip.engine.cores import cores
from maskedclip.jobs.code_snapshot import on_code, snapshot, snapshot_path, this_code
from maskedclip.jobs.job import NOT_QUEUED, Job, interpreter
from maskedclip.jobs.processes import holder
from maskedclip.jobs.slurm_queue import writing_to
from maskedclip.metrics.file_lock import locked
from maskedclip.next_step import curves_commands

_FAILED = "Submitted job triggered an exception"  # submitit's words
_LOCK = ".lock"  # of who starts a run, in its folder of jobs
_STOPPED = "stopped; the same command goes on from the last checkpoint"


def submit(config: Config, launch: LaunchConfig) -> None:
    """Carry out the run where `launch` says; on local and debug, until it ends.

    Raises ValueError for more GPUs or nodes than there are, a batch that the ranks cannot share,
    or data that is not there; RuntimeError where the job fails.
    """
    cluster = cluster_of(launch)
    launch = with_gpus(launch, cluster)
    ranks = launch.gpus or launch.cpu_ranks
    sizes = config.data.paired_batch, config.data.unpaired_batch
    check_divisible(sizes, ranks * launch.nodes, config.optim.accumulate)
    folder = config.directory.resolve() / "jobs"
    if cluster == "slurm":
        check_logs(folder)
    from maskedclip.pretrain.preflight import check, prepare, pretraining_on_tests

    if launch.dry_run:
        check(config)
        sys.stdout.write(plan(config, launch, cluster, ranks, folder))
        return
    prepare(config, before_ranks=cluster == "local")
    if cluster == "slurm" and (line := pretraining_on_tests(config)):
        sys.stderr.write(f"WARNING: {line}\n")  # elsewhere the run's own log is shown
    if cluster == "debug":
        Job(config, launch.gpus, _devices(launch))()
        return
    with alone(folder, cluster):
        _start(config, launch, cluster, ranks, folder)


@contextmanager
def alone(folder: Path, cluster: str) -> Iterator[None]:
    """Keep two commands from starting one run; RuntimeError, with who has it, for the second.

    On SLURM a job that waits or runs has it; on this machine the command, until the run ends.
    """
    run, lock = folder.parent, folder / _LOCK
    try:
        with locked(lock, wait=False, without="do not start a run twice at a time"):
            if cluster == "slurm" and (jobs := writing_to(folder)):
                path = shlex.quote(str(run))
                raise RuntimeError(
                    f"{run}: job {' '.join(jobs)} waits or runs for it already; see it by python "
                    f"-m maskedclip.slurm status {path}, or cancel {path} and submit again"
                )
            yield
    except BlockingIOError:
        who = holder(lock) or "another process"
        raise RuntimeError(
            f"{run}: another command starts or runs it ({who}); wait for it, or use another --name"
        ) from None


def _start(config: Config, launch: LaunchConfig, cluster: str, ranks: int, folder: Path) -> None:
    import submitit

    if cluster == "local":
        os.environ.update(this_code())
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // ranks)))
        # waiting threads sleep: beside another busy process spinning ones made a step 7 times
        # slower, and alone sleeping costs 7 % (docs/lab_notes.md, 2026-11-23)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # a run is expected to outlast its time limit, many times if need be
    executor = submitit.AutoExecutor(
        folder=folder,
        cluster=cluster,
        slurm_max_num_timeout=100,
        slurm_python=interpreter(launch.python),
    )
    wanted = parameters(config.name, launch, cluster, ranks)
    folder.mkdir(parents=True, exist_ok=True)
    # `retry` submits it so again
    save(override(launch, {"cluster": cluster}), folder / "launch.json")
    if cluster == "slurm":  # it may start days later, and again after that
        wanted["slurm_setup"] += on_code(snapshot(folder / "code"))
        wanted |= teardown(launch, folder)
    executor.update_parameters(**wanted)
    with stderr_to(folder / "submitit.log"), ctrl_c_ignored():
        devices = None if cluster == "slurm" else _devices(launch)
        job = executor.submit(Job(config, launch.gpus, devices))
    if cluster == "slurm":
        curves = "\n             ".join(curves_commands(Path(config.out), on_cluster=True))
        sys.stdout.write(
            f"submitted job {job.job_id}: {config.directory}\n"
            f"  log        tail -F {shlex.quote(str(job.paths.stderr))}\n"
            f"  curves     {curves}\n"
            f"  state      python -m maskedclip.slurm status {shlex.quote(str(config.directory))}\n"
        )
        return
    follow(job)


def check_logs(folder: Path) -> None:
    """Raise ValueError for a folder of logs in whose path SLURM would read numbers of jobs."""
    if "%" in str(folder):
        raise ValueError(
            f"{folder}: SLURM puts numbers in place of % and a letter in the paths of logs; use an "
            f"--out without %, or rename the folder"
        )


def plan(config: Config, launch: LaunchConfig, cluster: str, ranks: int, folder: Path) -> str:
    """Return what would be submitted, for SLURM with the sbatch script, and on GPUs its cost."""
    from maskedclip.pretrain.preflight import pretraining_on_tests

    share = (config.data.paired_batch + config.data.unpaired_batch) / (ranks * launch.nodes)
    paired, unpaired = map(", ".join, config.data.read)
    lines = [
        f"cluster      {cluster}",
        f"ranks        {launch.nodes} nodes x {ranks}, {share:g} images each a step",
        f"run          {config.directory}",
        f"paired       {paired or 'none'}",
        f"unpaired     {unpaired or 'none'}",
    ]
    if warning := pretraining_on_tests(config):
        lines.append(f"WARNING      {warning}")
    if cluster == "slurm":
        wanted = parameters(config.name, launch, cluster, ranks)
        wanted["slurm_setup"] += on_code(snapshot_path(folder / "code"))
        wanted |= teardown(launch, folder)
        lines += ["", script(wanted, folder, interpreter(launch.python))]
    if launch.gpus:
        from maskedclip.plan.cost import plan as cost
        from maskedclip.plan.cost import report

        own = launch.cpus_per_rank if cluster == "slurm" else max(1, cores() // ranks)
        planned = cost(
            config, nodes=launch.nodes, gpus=ranks, gpu=launch.card, cpus_per_rank=own
        )  # fmt: skip
        lines += ["", report(planned)]
    return "\n".join(lines) + "\n"


def teardown(launch: LaunchConfig, folder: Path) -> dict[str, Any]:
    """Return the parameter of lines that a job's own shell runs last, none where it need not.

    In a container there is no scontrol: the run leaves the mark of one that is not queued again
    beside its logs in `folder`, and the shell, which is outside, has it queued.
    """
    if not launch.python:
        return {}
    mark = f'{shlex.quote(str(folder))}/"$job"{NOT_QUEUED}'
    lines = [
        "status=$?",
        "job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
        f"if [ -e {mark} ]; then",
        "  status=1",
        "  for _ in {1..30}; do",
        f'    scontrol requeue "$job" && status=0 && rm -f {mark} && break',
        "    sleep 3",
        "  done",
        f"  [ $status = 0 ] || cat {mark} >&2",
        "fi",
        "exit $status",
    ]
    return {"slurm_teardown": lines}


def script(wanted: Mapping[str, Any], folder: Path, python: str, elements: int = 1) -> str:
    """Return the sbatch script of a job, or of an array of several, as submitit writes it.

    wanted is what `parameters` returns, python what `interpreter` does.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    plain = {name.removeprefix("slurm_"): value for name, value in wanted.items()}
    plain["time"] = plain.pop("timeout_min")
    plain["ntasks_per_node"] = plain.pop("tasks_per_node")
    plain["job_name"] = plain.pop("name")
    if "mem_gb" in plain:
        plain["mem"] = f"{plain.pop('mem_gb')}GB"
    if elements > 1:
        plain["map_count"] = elements
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return _make_sbatch_string(command=command, folder=folder, **plain)


def parameters(name: str, launch: LaunchConfig, cluster: str, ranks: int) -> dict[str, Any]:
    """Return the parameters of a job for submitit; unset options are left out."""
    wanted: dict[str, Any] = {
        "name": name,
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


def with_gpus(launch: LaunchConfig, cluster: str) -> LaunchConfig:
    """Return the launch with its number of GPUs a node: all of this machine, one on SLURM.

    Raises ValueError where this machine has fewer than asked for, or is more than one.
    """
    if cluster == "slurm":
        return replace(launch, gpus=1) if launch.gpus is None else launch
    if launch.nodes > 1:
        raise ValueError(f"--nodes {launch.nodes}: several nodes need SLURM; use --nodes 1")
    if launch.gpus == 0:
        return replace(launch, cpu_ranks=1) if cluster == "debug" else launch
    from maskedclip.engine.visible_gpus import compute_device, expected, gpu_names

    present = len(gpu_names())
    if not present and not launch.dry_run and expected():
        compute_device()  # which says why there are none
    wanted = present if launch.gpus is None else launch.gpus
    if wanted > present and not launch.dry_run:
        raise ValueError(
            f"--gpus {wanted}: this machine has {present}; use --gpus {present}, or submit where "
            f"SLURM is"
        )
    if cluster == "debug":  # in this process alone
        return replace(launch, gpus=min(1, wanted), cpu_ranks=1)
    return replace(launch, gpus=wanted)


def _devices(launch: LaunchConfig) -> tuple[str, ...]:
    """Return the GPUs of a run on this machine, the first of those that are visible."""
    if not launch.gpus:
        return ()
    from maskedclip.engine.visible_gpus import gpu_names

    return tuple(gpu_names()[: launch.gpus])


@contextmanager
def ctrl_c_ignored() -> Iterator[None]:
    """Let what is started meanwhile ignore Ctrl-C and a terminal that is closed.

    Submitit's local watcher ends at once on them: `follow` asks it in their place.
    """
    numbers = (signal.SIGINT, signal.SIGHUP)
    ours = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, ours, strict=True):
            signal.signal(number, handler)


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


def follow(job: Any) -> None:
    """Show a local job's lines as they come; RuntimeError with its own last words if it fails.

    Ctrl-C, SIGTERM and a closed terminal are passed on to its ranks, which save and leave.
    """
    shown: list[int | None] = [0, 0]
    try:
        with stops_as_by_ctrl_c():
            try:
                _show_until_done(job, shown)
            except KeyboardInterrupt:
                sys.stderr.write("saving; a second Ctrl-C does not wait for it\n")
                job._process.terminate()  # submitit's watcher, which passes it on
                _show_until_done(job, shown)
    except KeyboardInterrupt:
        raise RuntimeError(_STOPPED) from None
    if not job.paths.result_pickle.exists():  # asked to stop, hung, or killed
        raise RuntimeError(f"{_STOPPED} (whole log: {job.paths.stderr})")
    _raise_refusal(job)
    raise_if_failed(job)


def _show_until_done(job: Any, shown: list[int | None]) -> None:
    paths = (job.paths.stderr, job.paths.stdout)
    while not job.done():
        _relay(paths, shown)
        time.sleep(0.2)
    _relay(paths, shown)


def _raise_refusal(job: Any) -> None:
    """Raise ValueError where the ranks refused the user's input before they wrote anything.

    As where the launcher refuses it, no trace is left.
    """
    kind, _, words = _cause(job).partition("Error: ")
    jobs = job.paths.folder
    if kind != "Value" or (jobs.parent / "config.json").exists():
        return
    shutil.rmtree(jobs, ignore_errors=True)
    with suppress(OSError):  # something else is in it
        jobs.parent.rmdir()
    raise ValueError(words)


def raise_if_failed(job: Any) -> None:
    """Raise RuntimeError with the last words of a job that has ended badly."""
    if cause := _cause(job):
        raise RuntimeError(f"{cause.split('Error: ', 1)[-1]} (whole log: {job.paths.stderr})")


def _cause(job: Any) -> str:
    """Return the line that says which error ended a job, "" where none did."""
    error = job.exception()
    if error is None:
        return ""
    lines = [line for line in str(error).splitlines() if line.strip("- ")]
    causes = [line for line in lines if line[:1].isalpha() and "Error: " in line]
    return (causes or lines)[-1]


def _relay(paths: tuple[Path, Path], shown: list[int | None]) -> None:
    """Show what was added to the logs; `shown` is how far they were, None where all was shown."""
    streams: tuple[TextIO, TextIO] = (sys.stderr, sys.stdout)
    for which, (path, stream) in enumerate(zip(paths, streams, strict=True)):
        start = shown[which]
        if start is None or not path.exists():
            continue
        with path.open() as file:
            file.seek(start)
            # behind submitit's last line is the traceback, whose own last line is said at the end
            text, failed, _ = file.read().partition(_FAILED)
            shown[which] = None if failed else file.tell()
        # submitit's own lines (name, level, time) are not the user's concern
        lines = [x for x in text.splitlines(keepends=True) if not x.startswith("submitit ")]
        stream.write("".join(lines))
        stream.flush()

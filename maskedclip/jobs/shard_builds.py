"""A build of shards shared out to jobs: an array of parts, then one that merges.

A part writes every N-th shard, so the bytes are those of one build. The merge is an ordinary build:
it finds the shards that are there and writes what a part has left, so a lost part costs time alone.
"""

import multiprocessing.forkserver
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from tqdm import tqdm

from maskedclip.config import LaunchConfig
from maskedclip.jobs.code_snapshot import this_code
from maskedclip.jobs.job import Repeatable
from maskedclip.jobs.submit import cluster_of, raise_if_failed, stderr_to
from maskedclip.shards.make import ShardRequest, Summary, build, cores, finish, plan_of

_CORES_OF_A_JOB = 8  # asked of SLURM where --workers does not say
_LOGS = ".jobs"  # beside the dataset, whose directory holds nothing but the dataset


@dataclass(frozen=True)
class BuildPart(Repeatable):
    """One of the jobs: picklable and repeatable, it goes on behind its last finished shard."""

    request: ShardRequest
    part: int
    parts: int

    def __call__(self) -> None:
        from maskedclip.shards.building.build import build_part

        _spare_the_workers()
        plan = plan_of(self.request)
        workers = cores(self.request)
        build_part(self.request.directory, plan, self.part, self.parts, workers=workers)


@dataclass(frozen=True)
class BuildMerge(Repeatable):
    """The job behind the parts: an ordinary build, which finds most of its shards done."""

    request: ShardRequest

    def __call__(self) -> None:
        from maskedclip.shards.make_command import report

        _spare_the_workers()
        sys.stdout.write(report(build(self.request)))


def _spare_the_workers() -> None:
    """Let the processes of the pool ignore the signal that means: requeue.

    It goes to every process of the job, and kills one that does not know it.
    """
    from maskedclip.shards.building.prepare_sample import script_hidden

    ours = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with script_hidden():
        multiprocessing.forkserver.ensure_running()
    signal.signal(signal.SIGUSR2, ours)


def submit(request: ShardRequest) -> Summary | None:
    """Share a build out to `request.jobs` jobs; on SLURM return None as soon as they are queued.

    Elsewhere they run on this machine, and the summary is of the finished dataset. Raises as
    `build` does, RuntimeError where a part failed.
    """
    from maskedclip.shards.building.build import begin

    start = time.monotonic()
    os.environ.update(this_code())  # for the jobs
    cluster = cluster_of(LaunchConfig(cluster=request.cluster))  # type: ignore[arg-type]
    # jobs run elsewhere and later: no path may depend on where this command was given
    request = _absolute(request)
    if not request.workers:
        here = max(1, cores(request) // request.jobs)
        request = replace(request, workers=here if cluster == "local" else _CORES_OF_A_JOB)
    plan = plan_of(request)
    if not begin(request.directory, plan):
        return finish(request, plan, False, start)
    logs = request.directory.parent / _LOGS / request.dataset_name
    logs.mkdir(parents=True, exist_ok=True)
    parts = min(request.jobs, plan.chunks)
    if cluster == "slurm":
        _queued(request, logs, parts)
        return None
    _run_here(request, logs, parts, plan.chunks)
    summary = build(request, progress=False)
    shutil.rmtree(logs)
    if not any(logs.parent.iterdir()):
        logs.parent.rmdir()
    return summary._replace(built=True, seconds=time.monotonic() - start)


def _absolute(request: ShardRequest) -> ShardRequest:
    def resolved(path: Path | None) -> Path | None:
        return path.resolve() if path else None

    dataset = request.dataset
    return replace(
        request,
        dataset=str(Path(dataset).resolve()) if dataset.endswith(".toml") else dataset,
        name=request.dataset_name,
        root=resolved(request.root),
        out=request.directory.resolve(),
        csv=resolved(request.csv),
        class_words=resolved(request.class_words),
        key_file=resolved(request.key_file),
    )


def _queued(request: ShardRequest, logs: Path, parts: int) -> None:
    import submitit

    executor = submitit.AutoExecutor(folder=logs, cluster="slurm", slurm_max_num_timeout=100)
    wanted: dict[str, Any] = {
        "name": f"shards-{request.dataset_name}",
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": request.workers,
        "timeout_min": request.hours * 60,
        "mem_gb": request.memory_gb,
        "slurm_partition": request.partition,
        "slurm_account": request.account,
        "slurm_qos": request.qos,
        "slurm_array_parallelism": parts,
        "slurm_setup": ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],
    }
    executor.update_parameters(**{name: v for name, v in wanted.items() if v})
    with executor.batch():
        jobs = [executor.submit(BuildPart(request, part, parts)) for part in range(parts)]
    array = jobs[0].job_id.partition("_")[0]
    # whatever became of the parts: what one of them left, the merge writes
    executor.update_parameters(slurm_dependency=f"afterany:{array}")
    merge = executor.submit(BuildMerge(request))
    sys.stdout.write(
        f"submitted {parts} parts as job {array}, and job {merge.job_id} to merge them: "
        f"{request.directory}\n"
        f"  state      squeue -j {array},{merge.job_id}\n"
        f"  what came  tail -F {quote(str(merge.paths.stdout))}\n"
        f"  if a job is lost: the same command without --jobs finishes the rest here\n"
    )


def _run_here(request: ShardRequest, logs: Path, parts: int, shards: int) -> None:
    import submitit

    from maskedclip.shards.building.build import shards_written

    executor = submitit.AutoExecutor(folder=logs, cluster="local")
    executor.update_parameters(name="shards", timeout_min=60 * 24 * 30)
    with stderr_to(logs / "submitit.log"):
        jobs = [executor.submit(BuildPart(request, part, parts)) for part in range(parts)]
    try:
        with tqdm(total=shards, unit=" shards", desc=request.dataset_name) as bar:
            while not all(job.done() for job in jobs):
                bar.update(shards_written(request.directory) - bar.n)
                time.sleep(0.2)
            bar.update(shards_written(request.directory) - bar.n)
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel(check=False)
        raise
    for job in jobs:
        raise_if_failed(job)

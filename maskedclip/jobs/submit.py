"""Where a run is carried out: in this process, in local ones, or on SLURM, always by one `Job`."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskedclip.config import Config, LaunchConfig, check_shares, override, save
from maskedclip.jobs.code_snapshot import on_code, place_of, snapshot, this_code
from maskedclip.jobs.job import Job
from maskedclip.jobs.local import deaf_to_ctrl_c, follow, stderr_to


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
    from maskedclip.pretrain.preflight import prepare

    prepare(config)
    if cluster == "debug":
        Job(config)()
        return
    import submitit

    if cluster == "local":
        os.environ.update(this_code())
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
        # waiting threads sleep: beside another busy process spinning ones made a step 7 times
        # slower, and alone sleeping costs 7 % (docs/lab_notes.md, 2026-11-23)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # a run is expected to outlast its time limit, many times if need be
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=100)
    wanted = parameters(config.name, launch, cluster, ranks)
    folder.mkdir(parents=True, exist_ok=True)
    # `retry` submits it so again
    save(override(launch, {"cluster": cluster}), folder / "launch.json")
    if cluster == "slurm":  # it may start days later, and again after that
        wanted["slurm_setup"] += on_code(snapshot(folder / "code"))
    executor.update_parameters(**wanted)
    with stderr_to(folder / "submitit.log"), deaf_to_ctrl_c():
        job = executor.submit(Job(config))
    if cluster == "slurm":
        sys.stdout.write(
            f"submitted job {job.job_id}: {config.directory}\n"
            f"  log        tail -F {job.paths.stderr}\n"
            f"  curves     tensorboard --logdir {config.out}\n"
            f"  state      python -m maskedclip.slurm status {config.directory}\n"
        )
        return
    follow(job)


def plan(config: Config, launch: LaunchConfig, cluster: str, ranks: int, folder: Path) -> str:
    """Return what would be submitted, for SLURM with the sbatch script, and on GPUs its cost."""
    from maskedclip.pretrain.methods import method_of

    share = (config.data.paired_batch + config.data.unpaired_batch) / (ranks * launch.nodes)
    lines = [
        f"cluster      {cluster}",
        f"ranks        {launch.nodes} nodes x {ranks}, {share:g} images each a step",
        f"run          {config.directory}",
        f"paired       {', '.join(config.data.paired) or 'none'}",
        f"unpaired     {', '.join(config.data.unpaired) or 'none'}",
    ]
    if cluster == "slurm":
        wanted = parameters(config.name, launch, cluster, ranks)
        wanted["slurm_setup"] += on_code(place_of(folder / "code"))
        lines += ["", script(wanted, folder)]
    if not method_of(config).plannable:
        lines += ["", f"cost: that of {config.method} is not counted yet"]
    elif launch.gpus:
        from maskedclip.plan.cost import plan as cost
        from maskedclip.plan.table import report

        lines += ["", report(cost(config, nodes=launch.nodes, gpus=ranks, gpu=launch.card))]
    return "\n".join(lines) + "\n"


def script(wanted: Mapping[str, Any], folder: Path, elements: int = 1) -> str:
    """Return the sbatch script of a job, or of an array of several, as submitit writes it.

    wanted is what `parameters` returns.
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
    command = f"{sys.executable} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return _make_sbatch_string(command=command, folder=folder, **plain)


def parameters(name: str, launch: LaunchConfig, cluster: str, ranks: int) -> dict[str, Any]:
    """Return what submitit is to be told of a job; unset options are left out."""
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

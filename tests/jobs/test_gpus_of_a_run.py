"""A run uses the GPUs that it was given: all that are visible here, one a node on SLURM."""

import os
from pathlib import Path

import pytest
import torch

from maskedclip.config import Config, LaunchConfig, override
from maskedclip.jobs.job import Job
from maskedclip.jobs.submit import _devices, parameters, plan, with_gpus


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch see four GPUs, or as many of them as are visible."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")

    def count() -> int:
        mask = os.environ.get("CUDA_VISIBLE_DEVICES")
        return 4 if mask is None else len([word for word in mask.split(",") if word])

    monkeypatch.setattr(torch.cuda, "device_count", count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count() > 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if before is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = before


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("mask", "gpus", "devices"),
    [
        (None, None, ("0", "1", "2", "3")),
        (None, 2, ("0", "1")),
        ("2,3", 2, ("2", "3")),
        ("2,3", 1, ("2",)),
        ("MIG-41be5b02-0001", None, ("MIG-41be5b02-0001",)),
        (None, 0, ()),
    ],
)
def test_a_local_run_has_the_visible_gpus_by_their_names(mask, gpus, devices, monkeypatch):
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    launch = with_gpus(LaunchConfig(gpus=gpus, cluster="local"), "local")
    assert launch.gpus == len(devices)
    assert _devices(launch) == devices


@pytest.mark.usefixtures("four_gpus")
def test_more_gpus_than_are_visible_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(ValueError, match="--gpus 4: this machine has 2; use --gpus 2"):
        with_gpus(LaunchConfig(gpus=4, cluster="local"), "local")


@pytest.mark.parametrize(("gpus", "devices"), [(2, ("2", "3")), (0, ())])
def test_a_local_rank_sees_the_devices_of_its_run_whatever_submitit_has_written(
    small: Config, tmp_path: Path, monkeypatch, gpus, devices
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    absent = override(small, {"data.paired": (str(tmp_path / "absent"),)})
    # without these GPUs it stops at once, and with them, or without any, at the shards
    with pytest.raises((RuntimeError, ValueError), match=r"CUDA_VISIBLE_DEVICES=2,3, and|absent"):
        Job(absent, gpus, devices).pretrain()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(devices)


def test_slurm_is_asked_for_one_gpu_a_node_where_no_number_is_given(small: Config):
    launch = with_gpus(LaunchConfig(cluster="slurm", dry_run=True), "slurm")
    assert parameters("x", launch, "slurm", 1)["gpus_per_node"] == 1
    text = plan(small, launch, "slurm", 1, Path("jobs"))
    assert "#SBATCH --gpus-per-node=1" in text
    none = with_gpus(LaunchConfig(cluster="slurm", gpus=0, dry_run=True), "slurm")
    assert "#SBATCH --gpus-per-node=0" in plan(small, none, "slurm", 1, Path("jobs"))


def test_srun_alone_makes_ranks_of_its_tasks(monkeypatch):
    from maskedclip.jobs.job import _take_ranks_of_srun

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "gone at the end")  # so that monkeypatch removes what is set
        os.environ.pop(name)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_NTASKS", "6")
    _take_ranks_of_srun()  # a batch script, whose tasks srun would start
    assert "RANK" not in os.environ
    step = {
        "SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "4", "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "gpu[07-09]", "SLURM_STEP_ID": "2",
    }  # fmt: skip
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    _take_ranks_of_srun()
    assert [os.environ[name] for name in names[:4]] == ["4", "6", "1", "gpu07"]

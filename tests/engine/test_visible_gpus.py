"""Which GPUs a process has, by faked counts of torch; and no run on a processor in silence."""

from pathlib import Path

import pytest
import torch

from maskedclip.engine.visible_gpus import compute_device, expected, gpu_names, inference_device

ALLOCATION = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")


@pytest.fixture
def gpus(monkeypatch):
    """Let torch see so many GPUs, under this mask."""
    for name in (*ALLOCATION, "CUDA_VISIBLE_DEVICES", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def fake(count: int, mask: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        if mask is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)

    return fake


@pytest.mark.parametrize(
    ("count", "mask", "names"),
    [
        (4, None, ["0", "1", "2", "3"]),
        (2, "2,3", ["2", "3"]),
        (1, "MIG-41be5b02-0001", ["MIG-41be5b02-0001"]),
        (2, "GPU-8f2c, GPU-11aa", ["GPU-8f2c", "GPU-11aa"]),
        (1, "0,9", ["0"]),  # CUDA stops at the first that is not there
        (0, "", []),
    ],
)
def test_gpus_keep_the_names_of_the_mask(gpus, count, mask, names):
    gpus(count, mask)
    assert gpu_names() == names


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"SLURM_JOB_GPUS": "0,1"}, "SLURM has given GPUs (SLURM_JOB_GPUS=0,1)"),
        ({"SLURM_GPUS_ON_NODE": "4"}, "SLURM has given GPUs (SLURM_GPUS_ON_NODE=4)"),
        # a step that was not given the GPUs of its job
        (
            {"SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": "NoDevFiles"},
            "SLURM has given GPUs (SLURM_JOB_GPUS=0)",
        ),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1"),
        ({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "0"}, ""),
        ({"SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": ""}, ""),  # somebody wants the processor
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ""),
        ({}, ""),
    ],
)
def test_gpus_are_expected_where_slurm_or_the_mask_names_some(environment, reason, tmp_path):
    assert expected(environment, tmp_path / "no driver") == reason


def test_gpus_are_expected_where_the_kernel_has_a_driver_with_some(tmp_path: Path):
    (tmp_path / "0000:01:00.0").mkdir()
    assert expected({}, tmp_path) == "the driver of this machine has 1 GPUs"
    assert expected({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ""


def test_training_stops_at_once_where_gpus_were_given_and_torch_sees_none(gpus, monkeypatch):
    gpus(0)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1,2,3")
    with pytest.raises(
        RuntimeError, match=r"SLURM_JOB_GPUS=0,1,2,3\), and torch sees no GPU: "
    ) as e:
        compute_device()
    assert torch.__version__ in str(e.value)
    assert "--gpus 0, or CUDA_VISIBLE_DEVICES=" in str(e.value)
    assert "\n" not in str(e.value)


def test_an_old_driver_is_named_with_what_torch_needs_and_an_older_build(gpus, monkeypatch):
    gpus(0)
    words = "The NVIDIA driver on your system is too old (found version 12040).\nPlease update"

    def init() -> None:
        raise RuntimeError(words)

    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(RuntimeError, match=r"too old \(found version 12040\)") as e:
        compute_device()
    assert "needs driver 580 or newer" in str(e.value)
    assert "pip install 'torch>=2.13,<2.15' torchvision --index-url " in str(e.value)


def test_inference_goes_on_with_the_processor_and_says_so(gpus, monkeypatch, caplog):
    gpus(0)
    assert inference_device() == torch.device("cpu")
    assert not caplog.messages
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    assert inference_device() == torch.device("cpu")
    assert "the processor works alone" in caplog.text


def test_a_rank_has_a_gpu_of_its_own(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert compute_device() == torch.device("cuda", 1)
    gpus(1)  # SLURM shows a task its own alone
    assert compute_device() == torch.device("cuda", 0)
    gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RuntimeError, match="local rank 2: torch sees 2 GPUs here"):
        compute_device()

import subprocess
import sys

import pytest
import torch

from maskedclip.engine.device_settings import GROWING, allocator_settings, grow_segments, use_tf32


def test_segments_grow_where_the_user_has_said_nothing():
    environment = {"PATH": "/bin"}
    grow_segments(environment)
    assert environment == {"PATH": "/bin", "PYTORCH_CUDA_ALLOC_CONF": GROWING}


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_what_the_user_has_set_of_the_allocator_stays(name):
    environment = {name: "max_split_size_mb:128"}
    grow_segments(environment)
    assert environment == {name: "max_split_size_mb:128"}


def test_the_provenance_has_what_is_set_of_the_allocator(monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:128")
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert allocator_settings() == {"PYTORCH_ALLOC_CONF": "max_split_size_mb:128"}


def test_a_machine_without_cuda_says_nothing_of_growing_segments():
    code = (
        "from maskedclip.engine.device_settings import grow_segments; import sys; grow_segments();"
        "assert 'torch' not in sys.modules; import torch; torch.ones(9).sum()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


@pytest.fixture
def _as_before():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize(("asked", "precision"), [(True, "high"), (False, "highest")])
def test_an_fp32_run_on_a_card_with_tf32_uses_it_unless_it_is_off(asked, precision):
    assert use_tf32(asked, torch.float32, (8, 0)) is asked
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 is asked


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize(
    ("compute", "capability"),
    [(torch.bfloat16, (9, 0)), (torch.float32, (7, 0)), (torch.float32, (0, 0))],
)
def test_other_runs_and_cards_are_left_as_they_are(compute, capability):
    before = torch.get_float32_matmul_precision()
    assert not use_tf32(True, compute, capability)
    assert torch.get_float32_matmul_precision() == before

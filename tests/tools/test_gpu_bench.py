"""The bench of a GPU, which none has run: refused without one, and rehearsed on the processor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from benches import gpu

    return gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so_and_how_to_rehearse(gpu):
    with pytest.raises(
        ValueError, match=r"torch sees no GPU .* --device cpu --size micro"
    ) as error:
        gpu.gpu()
    assert "\n" not in str(error.value)


def test_the_table_is_markdown_and_leaves_empty_what_was_not_measured(gpu):
    rows = {"as it is": {"ms": 412.25, "note": "no wait"}, "varlen": {"note": "failed: a|b"}}
    table = gpu._table("NVIDIA H100", rows)
    assert table[0].startswith("NVIDIA H100, torch ")
    assert {line.count("|") for line in table[2:]} == {2 + len(gpu.COLUMNS)}
    assert table[-2:] == ["| as it is | 412 |  |  |  |  |  |  | no wait |",
                          "| varlen |  |  |  |  |  |  |  | failed: a/b |"]  # fmt: skip


def test_a_row_whose_time_is_over_is_not_begun(gpu):
    assert gpu._in_a_process(gpu.ROWS[0], "cpu", "micro", end=0.0) == {
        "note": "not run: the time is over"
    }


@pytest.mark.slow
def test_a_rehearsal_on_the_processor_measures_every_row(gpu):
    done = subprocess.run(
        [sys.executable, str(TOOLS / "bench.py"), "gpu", "--device", "cpu", "--size", "micro"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["table"] in done.stdout
    refused = {row.name for row in gpu.ROWS if "engine.attention" in row.changes}
    for row in gpu.ROWS:
        note = found.get(f"{row.name}: note", "")
        if note.startswith("not "):  # a busy machine has no time for it
            continue
        if row.name in refused:
            assert note.startswith("failed: engine.attention ")
            continue
        assert found[f"{row.name}: ms"] > 0
        assert row.kind != "step" or found[f"{row.name}: planned_gb"] > 0
    assert len(found["kernels"]) == gpu.KERNELS


@pytest.mark.parametrize(
    "kind",
    [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_a_step_of_the_step_bench_is_measured(gpu, kind):  # noqa: ARG001 (the path to the benches)
    from benches import step

    if (kind == "cuda") != torch.cuda.is_available():
        pytest.skip(f"torch sees {torch.cuda.device_count()} GPUs")
    found = step.child("ours", "micro", 2, 2)
    assert found["device"] == ("cpu" if kind == "cpu" else torch.cuda.get_device_name())
    assert 0 < found["flops"] / found["seconds"] / found["matrix_rate"] < 1
    assert found["peak_gib"] > found["floor_gib"]

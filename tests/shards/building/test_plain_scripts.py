"""A plain script, without `if __name__ == "__main__"`, may use all that starts worker processes."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
print("the script runs")
import multiprocessing
multiprocessing.set_start_method("spawn")
from pathlib import Path
from maskedclip.data.labelled import labelled
from maskedclip.data.labelled_views import training_batches
from maskedclip.data.storage.shards import Shards
import torch
from maskedclip.shards.make import ShardRequest, build
request = ShardRequest(dataset="phantom", out=Path("out"), count=8, size=64, workers=2)
print(build(request, progress=False).manifest["samples"], "built")
dataset = Shards(Path("out"))
samples = labelled(dataset).samples
def augment(image):
    return torch.zeros(3)
batches = training_batches(
    dataset, samples, augment, batch=4, epochs=range(1), seed=0, workers=2
)
print(sum(len(batch.image_BCHW) for batch in batches) == len(samples), "loaded")
"""


def test_a_script_without_a_guard_builds_and_loads_and_runs_once(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "plain.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the script runs", "8 built", "True loaded"]

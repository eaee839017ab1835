"""What is not imported on the way from the command to the first step: each costs up to seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from maskedclip.config import Config, override, save
from tests.jobs.test_torchrun import flags

LAUNCHER = Path(__file__).parents[2] / "launchers" / "submit_pretrain.py"
HEAVY = {
    "torch", "timm", "torchvision", "transformers", "scipy", "sklearn", "cv2", "matplotlib",
    "tensorboard", "webdataset",
}  # fmt: skip
LAUNCHED = f"""
import runpy, sys
sys.modules["submitit"] = None  # where the ranks would be started
try:
    runpy.run_path("{LAUNCHER}", run_name="__main__")
except ImportError as error:
    assert error.name == "submitit", error
print(*sys.modules)
"""
TRAINED = """
import sys
from pathlib import Path
from maskedclip.config import Config, load
from maskedclip.jobs.job import Job
Job(load(Path(sys.argv[1]), Config)).pretrain()
print(*sys.modules)
"""


def imported(code: str, *arguments: str | Path) -> set[str]:
    """Return the packages that a process has imported by the end of `code`."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_the_launcher_of_a_local_run_starts_its_ranks_without_torch(small: Config):
    words = ["demo", *flags(small), "--cluster=local"]
    found = imported(LAUNCHED, *words)
    assert "maskedclip.jobs.submit" in found
    assert "maskedclip.pretrain.preflight" in found
    assert found & HEAVY == set()


@pytest.mark.slow
def test_a_rank_trains_without_what_only_other_weights_and_scores_need(
    small: Config, tmp_path: Path
):
    # torchvision and scipy come with transformers' BERT
    unused = {"timm", "sklearn", "matplotlib", "webdataset"}
    save(override(small, {"optim.steps": 1}), tmp_path / "one_step.json")
    found = imported(TRAINED, tmp_path / "one_step.json")
    assert "transformers.models.bert.modeling_bert" in found
    assert found & unused == set()


@pytest.mark.slow
def test_what_the_ranks_refuse_is_one_line_and_leaves_nothing(small: Config):
    words = ["demo", *flags(small), "--cluster=local", "--gpus=0"]
    zero = ["--loss.mim=0", "--loss.clip=0", "--loss.mfd=0"]
    changed = [word for word in words if not word.startswith("--loss.")] + zero
    done = subprocess.run([sys.executable, LAUNCHER, *changed], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "loss.mim, loss.clip and loss.mfd are 0; nothing would be learnt\n"
    assert not small.directory.exists()

"""A real SLURM on this machine, for the tests marked slurm; .ci/run installs its packages."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.pretrain.loop import pretrain
from tests.slurm.attempts import STEPS, rows

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], list[str]]]:
    """Start three nodes without accounting; give a function that lists the jobs still there."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.fail("no slurmctld; apt-get install slurmctld slurmd slurm-client munge")
    sandbox = tmp_path_factory.mktemp("slurm")
    port = os.environ.get("SLURM_PORT", "17800")  # another one lets two sessions run side by side
    settings = {"SLURM_SANDBOX": str(sandbox), "SLURM_ACCT": "none", "SLURM_PORT": port}
    before = dict(os.environ)
    os.environ.update(settings)
    subprocess.run([HERE / "start_slurm.sh"], check=True)
    os.environ["SLURM_CONF"] = str(sandbox / "etc" / "slurm.conf")

    def waiting() -> list[str]:
        listed = subprocess.run(["squeue", "-h", "-o", "%i %T"], capture_output=True, text=True)
        return listed.stdout.splitlines()

    yield waiting
    subprocess.run([HERE / "stop_slurm.sh", "--wipe"], check=True)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], None]]:
    """Start a SLURM with accounting that enforces limits; give a function that sets the user's."""
    tools = f"{os.environ['PATH']}:/usr/sbin"
    if not all(shutil.which(name, path=tools) for name in ("slurmctld", "slurmdbd", "mariadbd")):
        pytest.skip("no accounting; apt-get install slurmdbd mariadb-server, beside slurmctld")
    sandbox, before = tmp_path_factory.mktemp("limited"), dict(os.environ)
    port = str(int(os.environ.get("SLURM_PORT", "17800")) + 700)
    os.environ |= {"SLURM_SANDBOX": str(sandbox), "SLURM_ACCT": "dbd", "SLURM_PORT": port}
    os.environ |= {"SLURM_ENFORCE": "associations,limits,qos", "SLURM_MAX_ARRAY": "3"}
    os.environ["SLURM_CONF"] = str(sandbox / "etc" / "slurm.conf")
    subprocess.run([HERE / "start_slurm.sh"], check=True)

    def limit(words: str) -> None:
        subprocess.run(["sacctmgr", "-i", "-Q", *words.split()], check=True)

    yield limit
    subprocess.run([HERE / "stop_slurm.sh", "--wipe"], check=True)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def until_idle(slurm: Callable[[], list[str]]) -> Callable[[float], None]:
    """Give a function that waits until no job is left; it fails after so many seconds."""

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while jobs := slurm():
            if time.monotonic() > end:
                pytest.fail(f"jobs are left after {seconds} s: {jobs}")
            time.sleep(0.3)

    return wait


@pytest.fixture
def run(small: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return override(
        small, {"optim.steps": STEPS, "engine.save_every": 1000, "engine.pictures_every": 1000}
    )


@pytest.fixture(scope="session")
def kept() -> dict[str, list[dict[str, float]]]:
    return {}


@pytest.fixture
def uninterrupted(run: Config, kept, tmp_path: Path) -> list[dict[str, float]]:
    if not kept:
        pretrain(override(run, {"out": str(tmp_path / "alone")}))
        kept["rows"] = rows(tmp_path / "alone" / run.name)
    return kept["rows"]

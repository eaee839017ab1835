import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from maskedclip.cluster_profile import profile_file, profiled
from maskedclip.command import read_config
from maskedclip.config import LaunchConfig, override
from maskedclip.jobs.job import interpreter
from maskedclip.jobs.submit import parameters, script, teardown

ROOT = Path(__file__).parents[1]
PROFILES = """
[default]
account = "eye-ai"
partition = "gpu"
hours = 72
memory_gb = 480
constraint = "a100"
sbatch = ["--reservation=fundus", "--exclusive"]
setup = ["module load cuda/12.6"]
python = "apptainer exec --nv '/my images/eyes.sif' python"

[short]
partition = "debug"
hours = 0.5
"""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    profile_file().parent.mkdir()
    profile_file().write_text(PROFILES)
    return profile_file()


def launch(*words: str) -> LaunchConfig:
    return read_config("", LaunchConfig(), "demo", words).options


def test_without_a_file_there_are_no_profiles():
    assert profiled() == LaunchConfig()
    with pytest.raises(ValueError, match=r"--profile=short: there is no .*cluster\.toml"):
        profiled("short")


def test_a_file_with_the_byte_order_mark_of_an_editor_is_read(written):
    written.write_text(PROFILES, encoding="utf-8-sig")
    assert profiled("short").hours == 0.5


def test_without_a_home_there_are_no_profiles_and_that_is_said(monkeypatch, capsys):
    nobody = KeyError("getpwuid(): uid not found: 12345")
    monkeypatch.setattr("pwd.getpwuid", Mock(side_effect=nobody))  # as of a container's user
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert profiled() == LaunchConfig()
    (line,) = capsys.readouterr().err.splitlines()
    assert "HOME is not set" in line
    assert "XDG_CONFIG_HOME=DIR" in line
    with pytest.raises(ValueError, match="--profile=short: HOME is not set"):
        profiled("short")


@pytest.mark.usefixtures("written")
def test_a_named_profile_stands_over_the_default_one_and_the_command_line_over_both():
    assert (launch().partition, launch().hours, launch().account) == ("gpu", 72.0, "eye-ai")
    short = launch("--profile", "short")
    assert (short.partition, short.hours, short.account) == ("debug", 0.5, "eye-ai")
    own = launch("--profile=short", "--partition=big", "--sbatch=--nice=100")
    assert (own.partition, own.hours, own.sbatch) == ("big", 0.5, ("--nice=100",))


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("[default", "", "is not TOML"),
        ("[default]\npartitoin = 'gpu'", "", "no field 'partitoin'; did you mean partition?"),
        ("[default]\nhours = 'long'", "", "[default]: hours: 'long' is not a number"),
        ("[default]\nsbatch = ['--signal=USR1@5']", "", "none of those that are set anyway"),
        ("[default]\nsbatch = ['reservation']", "", "write an option as --NAME=VALUE"),
        ("[default]\ndry_run = true", "", "no field 'dry_run'"),
        ("default = 3", "", "is not a table"),
        ("[short]", "shrot", "no profile 'shrot'; did you mean short?"),
    ],
)
def test_a_mistake_in_the_file_ends_in_one_line_that_names_it(written, text, name, words):
    written.write_text(text)
    with pytest.raises(ValueError, match=r"cluster\.toml") as found:
        profiled(name)
    assert words in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.usefixtures("written")
def test_the_sbatch_script_says_what_the_profile_says():
    command = [sys.executable, "launchers/submit_pretrain.py", "demo", "--gpus", "0"]
    command += ["--cluster", "slurm", "--dry_run"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = shown.splitlines()
    for line in (
        "#SBATCH --account=eye-ai",
        "#SBATCH --constraint=a100",
        "#SBATCH --exclusive",
        "#SBATCH --mem=480GB",
        "#SBATCH --partition=gpu",
        "#SBATCH --reservation=fundus",
        "#SBATCH --time=4320",
        "module load cuda/12.6",
        "exit $status",  # in a container nobody else could have the job queued again
    ):
        assert line in lines
    (command,) = [line for line in lines if line.startswith("srun ")]
    assert "apptainer exec --nv '/my images/eyes.sif' python -" in command


def test_the_python_of_a_job_is_the_launcher_s_where_none_is_named():
    launched = override(LaunchConfig(), {"gpus": 0})
    folder = Path("/runs/a b/jobs")
    text = script(parameters("x", launched, "slurm", 1), folder, interpreter(launched.python))
    assert f"{sys.executable} -" in text
    assert teardown(launched, folder) == {}


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("conda activate x && python", "one command"),
        ("module load y; python", "one command"),
        ("$(which python)", "one command"),
        ("python\n", "one command"),
        ("apptainer exec 'my image.sif python", "close the quotes"),
    ],
)
def test_a_python_that_is_no_single_command_is_refused(python, words):
    with pytest.raises(ValueError, match=words):
        LaunchConfig(python=python)

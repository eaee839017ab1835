"""Commands that are printed run as they stand, whatever names are in them."""

import json
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from maskedclip.finetune.command import read_finetune
from maskedclip.next_step import curves_commands, finetune_command, pretrain_command
from maskedclip.slurm import main
from tests.grid.grids import pretrained


def shards(directory: Path, classes: object) -> str:
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text(json.dumps({"classes": classes}))
    return str(directory)


def test_a_dataset_that_is_there_is_named_and_not_one_of_the_training(tmp_path: Path):
    trained = shards(tmp_path / "shards" / "a", {"disease": ["no", "yes"]})
    shards(tmp_path / "shards" / "b", {})
    run = tmp_path / "runs" / "it's mine"
    assert finetune_command(run, (), [trained]) == "python -m maskedclip.finetune --help"
    labelled = shards(tmp_path / "shards" / "my eyes", {"disease": ["no", "yes"]})
    words = shlex.split(finetune_command(run, (), [trained]))
    assert words[3:] == [str(run), "--dataset", labelled]
    assert shlex.split(finetune_command(run, ["other"], [trained]))[-1] == "other"


def test_sets_too_small_for_some_batches_join_others_or_are_not_proposed():
    small, large, reports = Path("drive"), Path("eyepacs"), Path("odir5k")
    proposed = partial(pretrain_command, tested=False)
    assert proposed({}, {small: 12}) == proposed({reports: 90}, {small: 12}) == ""
    words = proposed({reports: 100}, {large: 500}).split()
    assert words[2] == "mae"
    assert "--data.unpaired=odir5k,eyepacs" in words
    words = proposed({reports: 500}, {small: 12}).split()
    assert words[2:5] == [
        "maskedclip_vitt", "--data.paired=odir5k", "--data.unpaired=odir5k,drive",
    ]  # fmt: skip
    assert proposed({reports: 500}, {large: 500}).split()[4] == "--data.unpaired=eyepacs"


def test_without_labelled_shards_the_command_tells_how_they_are_named(capsys):
    words = shlex.split(finetune_command(Path("runs/a"), (), ()))
    with pytest.raises(SystemExit) as stopped:
        read_finetune("usage", words[3:])
    assert stopped.value.code == 0
    assert "--dataset" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["", "short"])
def test_what_status_prints_runs_when_it_is_pasted(tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    run = Path("my runs") / "it's; mine"
    pretrained(tmp_path / run, damage)
    (tmp_path / run / "jobs").mkdir()
    for name in ("7_submission.sh", "7_0_log.err"):
        (tmp_path / run / "jobs" / name).write_text("")
    main(["status", str(run)])
    shown = capsys.readouterr().out
    commands = re.findall(r"^(?:next:|   or:) (.*)$", shown, re.MULTILINE)
    assert commands
    for command in commands:
        if " retry " in command:  # would begin the run
            assert shlex.split(command)[3:] == ["retry", str(run)]
            continue
        words = ["bash", "-c", f"exec {command}"]
        if "--watch" in command:  # which goes on for as long as the run does
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as going:
                assert going.stdout
                assert any("my runs" in line for line in going.stdout)
                assert going.poll() is None
                going.kill()
            continue
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_tensorboard_listens_to_its_own_machine_and_ssh_leads_there(monkeypatch):
    for name in ("SLURM_SUBMIT_HOST", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    (alone,) = curves_commands(Path("my runs"))
    assert shlex.split(alone) == ["tensorboard", "--logdir", "my runs", "--host", "localhost"]
    assert len(curves_commands(Path("runs"), on_cluster=True)) == 2
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")  # a job's node is not logged in to
    tensorboard, ssh = curves_commands(Path("runs"))
    assert tensorboard.endswith("--host localhost")
    assert shlex.split(ssh, comments=True) == ["ssh", "-L", "6006:localhost:6006", "login1"]


def test_tensorboard_as_it_is_printed_binds_to_loopback_alone(tmp_path: Path):
    (command,) = curves_commands(tmp_path)[:1]
    words = [sys.executable, "-m", "tensorboard.main", *shlex.split(command)[1:], "--port=0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = next(line for line in server.stderr if "http://" in line)
            port = int(address.split("http://localhost:")[1].split("/")[0])
            listening = [
                line.split()[1]
                for table in ("tcp", "tcp6")
                for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
                if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
            ]
        finally:
            server.terminate()
    loopback = {f"0100007F:{port:04X}", f"{'0' * 24}01000000:{port:04X}"}
    assert listening
    assert set(listening) <= loopback

"""Every check of the doctor fails where the world is as it should not be."""

import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.doctor import filesystem, gpus, load, machine, run_inputs, slurm, torch_probe
from maskedclip.doctor.examine import Check, report
from maskedclip.doctor.outcome import Outcome
from maskedclip.recipes import demo, maskedclip_vitl

ROOT = Path(__file__).parents[2]
UNLIMITED = resource.RLIM_INFINITY
PROC = Path("/proc")  # a folder that takes no files, whoever asks


def faulty(outcome: Outcome, state: str, *words: str) -> None:
    assert outcome.state == state, outcome
    assert outcome.fix
    assert "\n" not in outcome.message + outcome.fix
    for word in words:
        assert word in outcome.message + outcome.fix, outcome
    runs_or_is_in_words(outcome.fix)


def runs_or_is_in_words(fix: str) -> None:
    """Nothing in capitals is to be filled in, and what begins as a command is one to its end."""
    assert not re.search(r"(?<![/\w])(?:DIR|DEVICE|FILE|DATASET|N|NAME)\b(?! )", fix), fix
    program, _, rest = fix.partition(" ")
    if program in ("python", "pip", "export", "unset", "ulimit", "mount", "srun"):
        done = subprocess.run(["bash", "-n", "-c", fix], capture_output=True, check=False)
        assert done.returncode == 0, fix
        assert not re.search(r"[,;] (?:or|and) ", rest.partition(" # ")[0]), fix


def fine(*outcomes: Outcome) -> None:
    for outcome in outcomes:
        assert outcome.state == "ok", outcome
        assert not outcome.fix


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB and 8 filesystem."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=8", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def executable(folder: Path, name: str, lines: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


# this machine


def test_an_old_python_fails():
    faulty(machine.python("3.9.18", ">=3.11"), "failed", "3.9.18", "3.11")
    fine(machine.python("3.13.0", ">=3.11"))


def test_a_package_that_setup_cfg_does_not_want_is_named():
    wanted = ["torch>=2.13,<2.15", "timm>=1.0.17", "fire>=0.7"]
    there = {"torch": "2.15.0", "timm": "1.0.9", "fire": ""}
    outcome = machine.packages(wanted, there.__getitem__)
    faulty(outcome, "failed", "torch 2.15.0", "timm 1.0.9", "fire missing")
    there = {"torch": "2.14.1+cu130", "timm": "1.0.31", "fire": "0.7.1"}
    fine(machine.packages(wanted, there.__getitem__))
    assert machine.packages([]).state == "not applicable"


def test_the_requirements_are_those_of_setup_cfg_or_of_the_installed_package(tmp_path: Path):
    python, lines = machine.declared(ROOT)
    assert python.startswith(">=3.11")
    assert any(line.startswith("torch>=") for line in lines)
    assert not any(line.startswith("#") for line in lines)
    installed = machine.declared(tmp_path)  # a folder without setup.cfg
    assert installed == ("", []) or installed[1][0].startswith("torch")


def test_a_small_shm_fails_and_a_missing_one_too(tiny: Path, tmp_path: Path):
    faulty(machine.shared_memory(tiny), "failed", "--shm-size")
    faulty(machine.shared_memory(tmp_path / "none"), "failed", "mount")


def test_few_open_files_fail_as_ulimit_sets_them():
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    shell = f"ulimit -n 128; {sys.executable} -S -c '{code}'"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    soft, hard = map(int, done.stdout.split())
    faulty(machine.open_files((soft, hard), 500), "failed", "128", "ulimit -n 756", "ask the admin")
    fine(machine.open_files((1024, 4096), 500), machine.open_files((UNLIMITED, UNLIMITED), 10**6))


def test_a_host_name_that_nobody_knows_fails():
    faulty(machine.host_name("no-such-host.invalid", 1), "failed", "/etc/hosts")


def test_a_host_that_calls_itself_loopback_fails_on_several_nodes():
    fine(machine.host_name("localhost", 1))
    faulty(machine.host_name("localhost", 2), "failed", "other nodes")


def test_a_network_device_that_is_not_there_fails():
    here = [name for _, name in socket.if_nameindex()]
    faulty(machine.network_devices(here, {"GLOO_SOCKET_IFNAME": "ib9"}, 1), "failed", "ib9")
    faulty(machine.network_devices(["lo", "eth0"], {"NCCL_SOCKET_IFNAME": "^lo,eth0"}, 1), "failed")
    faulty(machine.network_devices(["lo"], {}, 2), "failed", "other nodes")
    fine(
        machine.network_devices(here, {}, 1),
        machine.network_devices(["lo", "docker0", "eth0"], {"NCCL_SOCKET_IFNAME": "eth"}, 2),
        machine.network_devices(["lo", "eth0"], {"GLOO_SOCKET_IFNAME": "eth0"}, 2),
    )


# the folder that runs are written to


def test_a_folder_that_takes_no_files_fails():
    faulty(filesystem.rename(PROC), "failed", "/proc", "--out")


def test_a_folder_without_locks_is_a_warning():
    faulty(filesystem.locks(PROC), "warning", "flock")


def test_a_good_folder_passes_and_nothing_is_left_in_it(tmp_path: Path):
    fine(filesystem.rename(tmp_path), filesystem.locks(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_full_file_system_fails(tiny: Path):
    (tiny / "filling").write_bytes(bytes(64 << 10))
    faulty(filesystem.rename(tiny), "failed", "No space left")


def test_too_little_room_for_the_checkpoints_fails(tiny: Path, tmp_path: Path):
    faulty(filesystem.room(tmp_path, 1e18, "big"), "failed", "needed by big", "--engine.keep=1")
    faulty(filesystem.room(tiny, None, "any"), "warning")
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    faulty(filesystem.room(tmp_path, free / 1.5, "one"), "warning", "no second run")
    fine(filesystem.room(tmp_path, 1.0, "small"))


def test_a_local_disk_fails_for_several_nodes_and_memory_is_a_warning(tmp_path: Path, tiny: Path):
    mounts = Path("/proc/self/mounts").read_text()
    faulty(filesystem.shared(tiny, mounts, 1, "--out"), "warning", "tmpfs")
    faulty(filesystem.shared(tiny / "runs", mounts, 2, "--out"), "failed", "shared file system")
    here = f"disk / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n"
    fine(filesystem.shared(tmp_path / "runs", here, 2, "--out"))
    assert filesystem.mount_of(Path("/etc"), here) == ("ext4", "/")


# GPUs


def smi(folder: Path, lines: str) -> tuple[list[gpus.ListedGpu], str]:
    executable(folder, "nvidia-smi", lines)
    return gpus.list_gpus()


A100 = gpus.ListedGpu("NVIDIA A100-SXM4-80GB", "570.86.15")


def test_a_driver_that_does_not_answer_fails(commands: Path):
    listed = smi(
        commands, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"
    )
    faulty(gpus.present(*listed, 4, slurm=False), "failed", "version mismatch")


def test_fewer_gpus_than_wanted_fail_but_not_on_a_login_node(commands: Path):
    listed, complaint = smi(commands, "echo 'NVIDIA A100-SXM4-80GB, 570.86.15'")
    assert (listed, complaint) == ([A100], "")
    faulty(gpus.present(listed, "", 4, slurm=False), "failed", "4 wanted", "--gpus=1")
    assert gpus.present([], "", 4, slurm=True).state == "not applicable"
    fine(gpus.present(listed, "", 1, slurm=False))


def test_a_variable_that_hides_the_gpus_fails():
    faulty(gpus.visible([A100], {"CUDA_VISIBLE_DEVICES": ""}), "failed", "unset")
    faulty(gpus.visible([A100], {"CUDA_VISIBLE_DEVICES": "0,1"}), "failed", "there are 1")
    fine(gpus.visible([A100], {}), gpus.visible([A100], {"CUDA_VISIBLE_DEVICES": "0"}))


def test_a_driver_older_than_torchs_cuda_fails():
    seen = {"torch": "2.14.1", "cuda": "13.0", "available": False}
    faulty(gpus.driver([A100], seen), "failed", "580", "570.86.15")
    faulty(gpus.driver([A100], seen | {"cuda": None}), "failed", "without CUDA")
    faulty(gpus.driver([A100], seen | {"cuda": "12.8", "why": "no device"}), "failed", "no device")
    fine(gpus.driver([A100], {"cuda": "12.8", "available": True}))


def test_a_gpu_without_kernels_or_bf16_is_reported():
    v100 = {"devices": [{"name": "V100", "capability": [7, 0]}], "archs": ["sm_75", "sm_90"]}
    faulty(gpus.kernels(v100, "auto"), "failed", "V100", "sm_75, sm_90")
    built = v100 | {"archs": ["sm_70", "sm_90"]}
    faulty(gpus.kernels(built, "auto"), "warning", "fp32")
    faulty(gpus.kernels(built, "bf16"), "failed", "--engine.precision=auto")
    fine(
        gpus.kernels(
            {"devices": [{"name": "L4", "capability": [8, 9]}], "archs": ["sm_80"]}, "auto"
        )
    )


def test_a_torch_without_nccl_fails_where_gpus_are_asked_for():
    faulty(gpus.nccl({"torch": "2.14.1+cpu", "nccl": ""}, 4), "failed", "no NCCL")
    fine(gpus.nccl({"nccl": "2.27.7"}, 4))


def test_nothing_is_said_of_a_torch_that_did_not_load_in_time():
    for seen in ({"silent": "no answer in 90 s", "busy": 9.0}, {"broken": "no such file"}):
        outcomes = gpus.driver([A100], seen), gpus.nccl(seen, 4)
        assert {outcome.state for outcome in outcomes} == {"not applicable"}


def test_a_run_that_does_not_fit_the_gpus_fails():
    cost = {"gpu": "a100-40", "memory": 60e9, "usable": 42e9, "disk": 1, "remedy": "--gpus=8"}
    faulty(gpus.fits(cost, ""), "failed", "does not fit", "--gpus=8")
    faulty(gpus.fits(cost | {"memory": 40e9}, ""), "warning", "tight", "--gpus=8")
    faulty(gpus.fits({"error": "720 images cannot be shared by 7 ranks"}, ""), "failed")
    fine(gpus.fits(cost | {"memory": 30e9, "remedy": ""}, ""))


def test_a_card_here_that_is_smaller_than_its_name_says_is_what_a_run_has_to_fit():
    request = {"config": asdict(maskedclip_vitl()), "nodes": 1, "gpus": 4, "gpu": "a100-80"}
    whole, part = torch_probe._cost(request, []), torch_probe._cost(request, [85e9, 20e9])
    assert (whole["remedy"], part["usable"]) == ("", 20e9)
    assert "--optim.accumulate=" in part["remedy"]


def test_a_gpu_is_known_by_the_name_that_cuda_has_for_it():
    assert gpus.planned_name("NVIDIA A100-SXM4-80GB") == "a100-80"
    assert gpus.planned_name("NVIDIA A100-SXM4-40GB") == "a100-40"
    assert gpus.planned_name("NVIDIA H100 80GB HBM3") == "h100-80"
    assert gpus.planned_name("Voodoo2") == ""


# torch and TensorBoard


def test_a_torch_that_does_not_load_fails_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: no such file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    faulty(torch_probe.loads(torch_probe.ask({})), "failed", "libcudart.so.13", "pip install")


def test_a_torch_that_hangs_fails_where_the_machine_is_not_busy():
    seen = torch_probe.ask({}, timeout_s=0.05)
    quiet = torch_probe.loads(seen | {"busy": 0.2})
    faulty(quiet, "failed", "no answer in 0.05 s", "import torch")
    assert "reinstall" not in quiet.fix
    busy = torch_probe.loads(seen | {"busy": 9.0})
    faulty(busy, "warning", "9.0 processes for each core: nothing is known", "less busy")
    assert "does not load:" not in busy.message


def test_a_busy_machine_is_given_more_time():
    assert [load.patience(busy) for busy in (0.1, 1.0, 2.5, 40.0)] == [1.0, 1.0, 2.5, 4.0]


def test_numpy_of_another_abi_fails():
    seen = {"numpy": True, "gloo": True, "torch": "2.2.0"}
    words = "\nA module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.4.6\n"
    clash = seen | {"complaint": torch_probe.abi_complaint(words)}
    faulty(torch_probe.loads(clash), "failed", "compiled using NumPy 1.x")
    faulty(torch_probe.loads(seen | {"gloo": False}), "failed", "gloo")


def test_a_missing_tensorboard_fails():
    faulty(machine.tensorboard("tensorboard_that_is_not_here"), "failed", "pip install tensorboard")
    fine(machine.tensorboard())


# the run


def recipe(phantoms: dict[str, Path], **changes: object) -> Config:
    base = {
        "data.paired": (str(phantoms["paired"]),),
        "data.unpaired": (str(phantoms["unpaired"]),),
        "data.paired_batch": 4,
        "data.unpaired_batch": 4,
        "data.draw_phantoms": 0,
        "after.datasets": (),
    }
    return override(demo(), base | {name.replace("__", "."): v for name, v in changes.items()})


def test_shards_that_are_missing_cut_or_not_there_fail(phantoms: dict[str, Path], tmp_path: Path):
    fine(run_inputs.shards(recipe(phantoms)))
    copy = tmp_path / "paired"
    copy.mkdir()
    for file in phantoms["paired"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = recipe(phantoms, data__paired=(str(copy),))
    shard = copy / "paired-000001.tar"
    os.truncate(shard, 1024)
    faulty(
        run_inputs.shards(config), "failed", "paired-000001.tar has 1,024 bytes", "check_shards.py"
    )
    shard.unlink()
    faulty(run_inputs.shards(config), "failed", "paired-000001.tar is missing")
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"samples"', '"simples"'))
    faulty(run_inputs.shards(config), "failed", "manifest.json")
    faulty(
        run_inputs.shards(recipe(phantoms, data__paired=(str(tmp_path / "no"),))),
        "failed",
        "no such",
    )
    faulty(
        run_inputs.shards(recipe(phantoms, data__unpaired=())),
        "failed",
        "name some as --data.unpaired",
    )
    assert run_inputs.shards(None).state == "not applicable"


def test_shards_that_no_tar_is_open_for_count_as_files_of_a_rank(phantoms: dict[str, Path]):
    assert run_inputs.shard_count(recipe(phantoms)) == 6
    assert run_inputs.shard_count(None) == 0


def test_a_batch_that_the_ranks_do_not_divide_fails_and_too_few_samples_warn(
    phantoms: dict[str, Path],
):
    fine(run_inputs.batch_split(recipe(phantoms), 4))
    faulty(run_inputs.batch_split(recipe(phantoms), 3), "failed", "world size 3", "multiple")
    many = recipe(phantoms, data__paired_batch=40)
    faulty(run_inputs.batch_split(many, 4), "warning", "24 samples", "--data.paired_batch=24")


def test_shards_that_other_nodes_do_not_see_fail(phantoms: dict[str, Path]):
    local = "disk / ext4 rw 0 0\n"
    faulty(run_inputs.file_systems(recipe(phantoms), local, 2), "failed", "the shards")
    fine(run_inputs.file_systems(recipe(phantoms), "server:/x / lustre rw 0 0\n", 2))


def test_a_text_tower_that_is_not_here_fails_with_the_command_that_fetches_it(
    phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    config = recipe(phantoms, model__text="nobody/no-bert")
    outcome = run_inputs.hub_weights(config, "demo --model.text=nobody/no-bert")
    faulty(outcome, "failed", "python tools/prefetch.py demo --model.text=nobody/no-bert")
    fine(run_inputs.hub_weights(recipe(phantoms), "demo"))


# SLURM


CONFIG = """Configuration data as of 2026-11-24T17:00:00
JobRequeue              = {requeue}
MaxArraySize            = {array}
MaxJobCount             = 10000
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SlurmctldParameters     = {parameters}
SLURM_VERSION           = {version}
AccountingStorageType   = {storage}
"""
GOOD = {
    "requeue": 1, "array": 1001, "parameters": "preempt_send_user_signal",
    "version": "23.11.4", "storage": "accounting_storage/slurmdbd", "grace": 120, "mode": "REQUEUE",
}  # fmt: skip


JUDGES = (
    slurm.commands, slurm.controller, slurm.requeue, slurm.preemption, slurm.grace, slurm.arrays,
    slurm.accounting,
)  # fmt: skip


def cluster(folder: Path, **changes: object) -> slurm.Cluster:
    facts = GOOD | changes
    (folder / "config").write_text(CONFIG.format(**facts))
    (folder / "partition").write_text(
        f"PartitionName=gpu Default=YES GraceTime={facts['grace']} PreemptMode={facts['mode']}\n"
    )
    executable(folder, "scontrol", f"""case "$*" in
    ping) echo "Slurmctld(primary) at head is {facts.get('ping', 'UP')}" ;;
    *config) while read -r line; do echo "$line"; done < {folder}/config ;;
    *partition) read -r line < {folder}/partition; echo "$line" ;;
    esac""")  # fmt: skip
    for name in ("sbatch", "srun", "squeue", "scancel"):
        executable(folder, name, "exit 0")
    executable(folder, "sacct", str(facts.get("sacct", "exit 0")))
    return slurm.ask()


def test_a_good_cluster_passes(commands: Path):
    answers = cluster(commands)
    fine(*(judge(answers) for judge in JUDGES))


@pytest.mark.usefixtures("commands")
def test_where_there_is_no_slurm_nothing_fails():
    for judge in JUDGES:
        assert judge(slurm.ask()).state == "not applicable"


def test_half_of_slurms_commands_fail(commands: Path):
    executable(commands, "sbatch", "exit 0")
    faulty(slurm.commands(slurm.ask()), "failed", "srun", "module load slurm")


def test_a_controller_that_is_down_fails_and_is_asked_nothing_more(commands: Path):
    answers = cluster(commands, ping="DOWN")
    faulty(slurm.controller(answers), "failed", "DOWN", "--cluster local")
    assert slurm.requeue(answers).state == "not applicable"


@pytest.mark.parametrize(
    ("changes", "check", "state", "word"),
    [
        ({"requeue": 0}, "requeue", "failed", "--requeue"),
        ({"parameters": "(null)"}, "preemption", "warning", "preempt_send_user_signal"),
        ({"mode": "CANCEL"}, "preemption", "warning", "CANCEL"),
        ({"grace": 0}, "grace", "warning", "gpu 0 s"),
        ({"array": 0}, "arrays", "failed", "MaxArraySize=0"),
        ({"array": 10}, "arrays", "warning", "many arrays"),
        ({"storage": "accounting_storage/none"}, "accounting", "warning", "slurmdbd"),
        ({"sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1"}, "accounting",
         "warning", "is disabled"),
    ],
)  # fmt: skip
def test_what_a_cluster_does_not_allow_is_reported(commands: Path, changes, check, state, word):
    faulty(getattr(slurm, check)(cluster(commands, **changes)), state, word)


# all of it


def test_the_report_is_aligned_and_coloured_only_on_a_terminal():
    checks = [
        Check("a", "ok", "fine", "", 0.1),
        Check("longer", "failed", "broken", "fix it", 2.0),
    ]
    plain, coloured = (report(checks, 2.1, "demo", colour) for colour in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[31;1mfailed" in coloured
    first, second, fix = plain.splitlines()[:3]
    assert first.index("fine") == second.index("broken") == fix.index("fix: fix it")
    assert "the slowest: longer, 2.0 s" in plain
    assert plain.splitlines()[-1] == "next: python tools/doctor.py demo"
    assert "submit_pretrain.py demo --dry_run" in report(checks[:1], 1.0, "demo", False)


def test_the_command_checks_this_machine_and_says_how_to_fix_every_fault(tmp_path: Path):
    command = [sys.executable, "tools/doctor.py", "--json", "--out", str(tmp_path / "runs")]
    before = threading.active_count()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    rows = json.loads(done.stdout)["checks"]
    assert len(rows) >= 30
    assert len({row["name"] for row in rows}) == len(rows)
    states = {row["state"] for row in rows}
    assert states <= {"ok", "warning", "failed", "not applicable"}
    assert all(bool(row["fix"]) == (row["state"] in ("warning", "failed")) for row in rows)
    assert done.returncode == ("failed" in states)
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == before


def test_a_flag_that_does_not_exist_ends_in_one_line():
    command = [sys.executable, "tools/doctor.py", "demo", "--gpu=4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean --gpus" in done.stderr


@pytest.mark.slow  # loads transformers to build the networks
def test_the_cost_of_a_recipe_comes_from_its_plan(phantoms: dict[str, Path]):
    request = {"config": asdict(recipe(phantoms)), "nodes": 1, "gpus": 4, "gpu": "a100-40"}
    cost = torch_probe.ask(request)["cost"]
    assert cost["gpu"] == "a100-40"
    assert 0 < cost["memory"] < cost["usable"]
    assert "ranks" in torch_probe.ask(request | {"gpus": 3})["cost"]["error"]

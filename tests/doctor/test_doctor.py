"""Every check of the doctor fails where the world is as it should not be."""

import json
import os
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
from maskedclip.doctor import filesystem as files
from maskedclip.doctor import gpus as gpus
from maskedclip.doctor import machine as machine
from maskedclip.doctor import run_inputs as run
from maskedclip.doctor import services as services
from maskedclip.doctor import slurm as slurm
from maskedclip.doctor import torch_probe as probe
from maskedclip.doctor import versions as versions
from maskedclip.doctor.examine import Check, report
from maskedclip.doctor.finding import Finding
from maskedclip.recipes import demo

ROOT = Path(__file__).parents[2]
UNLIMITED = resource.RLIM_INFINITY
PROC = Path("/proc")  # a folder that takes no files, whoever asks


def faulty(finding: Finding, state: str, *words: str) -> None:
    assert finding.state == state, finding
    assert finding.mend
    assert "\n" not in finding.found + finding.mend
    for word in words:
        assert word in finding.found + finding.mend, finding


def fine(*findings: Finding) -> None:
    for finding in findings:
        assert finding.state == "ok", finding
        assert not finding.mend


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB and 8 files."""
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


# Python and packages


def test_an_old_python_fails():
    faulty(versions.python((3, 9, 18)), "failed", "3.9.18", "3.11")
    fine(versions.python(sys.version_info[:3]))


@pytest.mark.parametrize(
    ("package", "version", "state", "word"),
    [
        ("torch", "2.5.1+cu124", "failed", "CVE-2025-32434"),
        ("torch", "2.9.1", "failed", "CVE-2026-24747"),
        ("timm", "1.0.27", "warning", "GHSA-pqww-w348-m542"),
        ("transformers", "5.2.0", "failed", "CVE-2026-4372"),
        ("transformers", "4.47.1", "failed", "CVE-2024-11393"),
        ("submitit", "1.5.2", "failed", "1.5.3"),
        ("webdataset", "0.2.86", "warning", "0.2.90"),
        ("numpy", "1.26.4", "failed", "2.0.0"),
        ("pillow", "12.2.0", "warning", "CVE-2026-59199"),
        ("pillow", "11.3.0", "failed", "pillow>=13.0.0"),
        ("opencv-python-headless", "4.11.0.86", "failed", "CVE-2025-53644"),
        ("protobuf", "5.28.3", "warning", "CVE-2025-4565"),
        ("torch", "", "failed", "pip install torch"),
    ],
)
def test_a_version_with_a_known_hole_is_named_with_the_one_that_mends_it(
    package: str, version: str, state: str, word: str
):
    faulty(versions.holes(package, version), state, word, "pip install")


@pytest.mark.parametrize(
    ("package", "version"),
    [("transformers", "4.55.4"), ("opencv-python-headless", "4.9.0.80"), ("pillow", "13.0.0")],
)
def test_a_version_before_or_after_a_hole_is_fine(package: str, version: str):
    fine(versions.holes(package, version))


def test_a_package_that_setup_cfg_does_not_want_is_named():
    wanted = ["torch>=2.13,<2.15", "timm>=1.0.17", "fire>=0.7"]
    found = {"torch": "2.15.0", "timm": "1.0.9", "fire": ""}
    said = versions.requirements(wanted, found)
    faulty(said, "failed", "torch 2.15.0", "timm 1.0.9", "fire missing")
    fine(versions.requirements(wanted, {"torch": "2.14.1", "timm": "1.0.31", "fire": "0.7.1"}))
    assert versions.requirements([], {}).state == "not applicable"


@pytest.mark.usefixtures("commands")
def test_a_machine_without_git_is_a_warning(tmp_path: Path):
    faulty(versions.git(tmp_path), "warning", "no git here")


def test_a_folder_that_is_no_checkout_is_a_warning(tmp_path: Path):
    faulty(versions.git(tmp_path), "warning", "is no checkout")


def test_another_encoding_than_utf_8_is_a_warning():
    code = "import locale, sys; print(locale.getpreferredencoding(False))"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=plain, capture_output=True, text=True, check=True
    )
    faulty(versions.utf8({"files": done.stdout.strip()}), "warning", "C.UTF-8")
    fine(versions.utf8({"files": "UTF-8", "names": "utf-8"}))


def test_a_variable_that_slows_each_step_down_is_named():
    said = versions.code_changes({"CUDA_LAUNCH_BLOCKING": "1", "HOME": "/"})
    faulty(said, "warning", "unset CUDA_LAUNCH_BLOCKING")
    fine(versions.code_changes({"HOME": "/"}))


# this machine


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


def test_locked_memory_counts_only_with_infiniband():
    faulty(machine.locked_memory(8 << 20, ["mlx5_0"]), "warning", "ulimit -l unlimited")
    assert machine.locked_memory(8 << 20, []).state == "not applicable"
    fine(machine.locked_memory(UNLIMITED, ["mlx5_0"]))


def test_core_files_of_a_rank_are_a_warning():
    faulty(machine.core_files(UNLIMITED, "core"), "warning", "ulimit -c 0")
    fine(machine.core_files(0, "core"), machine.core_files(UNLIMITED, "|/usr/share/apport"))


def test_the_smallest_limit_of_the_control_groups_above_a_process_counts(tmp_path: Path):
    inner = tmp_path / "slurm" / "job_7"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("2000000000\n")
    (inner / "cpu.max").write_text("150000 100000\n")
    assert machine.memory_limit("0::/slurm/job_7\n", tmp_path) == 2_000_000_000
    assert machine.cpu_limit("0::/slurm/job_7\n", tmp_path) == 1.5
    assert machine.memory_limit("0::/elsewhere\n", tmp_path) is None
    faulty(machine.memory(64_000_000_000, 2_000_000_000, 1, 0), "warning", "of the control group")
    faulty(machine.memory(64_000_000_000, None, 1, 80e9), "failed", "save_aside=false")
    fine(machine.memory(64_000_000_000, None, 4, 8e9))


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path):
    folder = tmp_path / "memory" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("3000000000")
    (folder.parent / "memory.limit_in_bytes").write_text("9223372036854771712")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    membership = "4:memory:/job\n3:cpuset:/\n1:cpu,cpuacct:/\n"
    assert machine.memory_limit(membership, tmp_path) == 3_000_000_000
    assert machine.cpu_limit(membership, tmp_path) is None


def test_more_threads_than_processors_are_a_warning():
    faulty(machine.processors(64, 1.5, 1, 4), "warning", "--data.threads=1")
    fine(machine.processors(64, 64, 8, 4))


@pytest.mark.parametrize(
    ("value", "state"), [("many", "failed"), ("0", "failed"), ("8", "warning")]
)
def test_a_count_of_omp_threads_that_does_not_fit_is_named(value: str, state: str):
    faulty(machine.omp_threads(value, 8, 4), state, "export OMP_NUM_THREADS=2")
    fine(machine.omp_threads(None, 8, 4), machine.omp_threads("2", 8, 4))


def test_a_host_name_that_nobody_knows_fails():
    faulty(machine.host_name("no-such-host.invalid", 1), "failed", "/etc/hosts")


def test_a_host_that_calls_itself_loopback_fails_on_several_nodes():
    fine(machine.host_name("localhost", 1))
    faulty(machine.host_name("localhost", 2), "failed", "other nodes")


def test_a_network_device_that_is_not_there_fails():
    here = services.devices()
    faulty(machine.interfaces(here, {"GLOO_SOCKET_IFNAME": "ib9"}, 1), "failed", "ib9")
    faulty(machine.interfaces(["lo", "eth0"], {"NCCL_SOCKET_IFNAME": "^lo,eth0"}, 1), "failed")
    faulty(machine.interfaces(["lo"], {}, 2), "failed", "other nodes")
    faulty(machine.interfaces(["lo", "docker0", "eth0"], {}, 2), "warning", "docker0")
    fine(
        machine.interfaces(here, {}, 1),
        machine.interfaces(["lo", "docker0", "eth0"], {"NCCL_SOCKET_IFNAME": "eth"}, 2),
        machine.interfaces(["lo", "eth0"], {"GLOO_SOCKET_IFNAME": "eth0"}, 2),
    )


def test_a_tmpdir_that_cannot_be_written_fails_and_a_full_one_warns(tiny: Path, tmp_path: Path):
    faulty(machine.temporary(tmp_path / "none"), "failed", "export TMPDIR")
    faulty(machine.temporary(tiny), "warning", "export TMPDIR")


def test_a_clock_behind_the_code_fails(tmp_path: Path):
    file = tmp_path / "code.py"
    file.write_text("")
    written = file.stat().st_mtime
    faulty(machine.clock(written - 3600, written), "failed", "3600 s")
    fine(machine.clock(written, written))


def test_a_time_zone_that_is_not_known_is_a_warning():
    faulty(machine.time_zone("Mars/Olympus", "UTC"), "warning", "Mars/Olympus")
    fine(
        machine.time_zone("Europe/Zurich", "CET"),
        machine.time_zone("CET-1CEST", "CET"),
        machine.time_zone(None, "UTC"),
    )


# the folder that runs are written to


@pytest.mark.parametrize("check", [files.rename, files.fsync, files.skew])
def test_a_folder_that_takes_no_files_fails(check):
    faulty(check(PROC), "failed", "/proc", "--out")


def test_a_folder_without_locks_is_a_warning():
    faulty(files.locks(PROC), "warning", "flock")


def test_a_good_folder_passes_and_nothing_is_left_in_it(tmp_path: Path):
    fine(files.rename(tmp_path), files.locks(tmp_path), files.skew(tmp_path))
    fine(files.fsync(tmp_path, slow_s=60))
    assert not list(tmp_path.iterdir())


def test_a_full_file_system_fails(tiny: Path):
    (tiny / "filling").write_bytes(bytes(64 << 10))
    faulty(files.fsync(tiny), "failed", "No space left")
    faulty(files.rename(tiny), "failed", "No space left")


def test_a_slow_disk_is_a_warning_and_a_very_slow_one_fails(tmp_path: Path):
    faulty(files.fsync(tmp_path, slow_s=0), "warning", "save_every")
    faulty(files.fsync(tmp_path, slow_s=0, very_slow_s=0), "failed", "pre-emption")


def test_a_file_system_with_another_clock_is_told():
    faulty(files.skew_of(3600), "failed", "3600.0 s")
    faulty(files.skew_of(5), "warning", "chrony")


def test_too_little_room_for_the_checkpoints_fails(tiny: Path, tmp_path: Path):
    faulty(files.room(tmp_path, 1e18, "big"), "failed", "needed by big", "--engine.keep=1")
    faulty(files.room(tiny, None, "any"), "warning")
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    faulty(files.room(tmp_path, free / 1.5, "one"), "warning", "no second run")
    fine(files.room(tmp_path, 1.0, "small"))


def test_a_file_system_that_takes_few_files_fails(tiny: Path):
    faulty(files.inodes(tiny), "failed", "of 8 files")


def test_a_local_disk_fails_for_several_nodes_and_memory_is_a_warning(tmp_path: Path, tiny: Path):
    mounts = Path("/proc/self/mounts").read_text()
    faulty(files.shared(tiny, mounts, 1, "--out"), "warning", "tmpfs")
    faulty(files.shared(tiny / "runs", mounts, 2, "--out"), "failed", "shared file system")
    here = f"disk / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n"
    fine(files.shared(tmp_path / "runs", here, 2, "--out"))
    assert files.mount_of(Path("/etc"), here) == ("ext4", "/")


# GPUs


def smi(folder: Path, lines: str) -> tuple[list[gpus.Card], str]:
    executable(folder, "nvidia-smi", lines)
    return gpus.cards()


A100 = gpus.Card("NVIDIA A100-SXM4-80GB", 81920 * 2**20, "570.86.15")


def test_a_driver_that_does_not_answer_fails(commands: Path):
    found = smi(
        commands, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"
    )
    faulty(gpus.present(*found, 4, slurm=False), "failed", "version mismatch")


def test_fewer_gpus_than_wanted_fail_but_not_on_a_login_node(commands: Path):
    listed, said = smi(commands, "echo 'NVIDIA A100-SXM4-80GB, 81920, 570.86.15'")
    assert (listed, said) == ([A100], "")
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


def test_a_card_without_kernels_or_bf16_is_told():
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


def test_a_run_that_does_not_fit_the_cards_fails():
    cost = {"gpu": "a100-40", "memory": 60e9, "usable": 42e9, "disk": 1, "snapshot": 1}
    faulty(gpus.fits(cost, "", None), "failed", "does not fit", "--optim.accumulate=2")
    faulty(gpus.fits(cost | {"memory": 40e9}, "", None), "warning", "tight")
    faulty(gpus.fits(cost | {"memory": 30e9}, "", 16e9), "failed", "16.0 GB")
    faulty(gpus.fits({"error": "720 images cannot be shared by 7 ranks"}, "", None), "failed")
    fine(gpus.fits(cost | {"memory": 30e9}, "", None))


def test_a_card_is_known_by_the_name_that_cuda_has_for_it():
    assert gpus.card_of("NVIDIA A100-SXM4-80GB") == "a100-80"
    assert gpus.card_of("NVIDIA A100-SXM4-40GB") == "a100-40"
    assert gpus.card_of("NVIDIA H100 80GB HBM3") == "h100-80"
    assert gpus.card_of("Voodoo2") == ""


# torch and TensorBoard


def test_a_torch_that_does_not_load_fails_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: no such file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    faulty(services.torch_loads(probe.ask({})), "failed", "libcudart.so.13", "pip install")


def test_a_torch_that_hangs_fails():
    faulty(services.torch_loads(probe.ask({}, timeout_s=0.05)), "failed", "no answer in 0.05 s")


def test_numpy_of_another_abi_fails():
    seen = {"numpy": True, "gloo": True, "torch": "2.2.0"}
    words = "\nA module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.4.6\n"
    said = seen | {"complaint": probe.abi_complaint(words)}
    faulty(services.torch_loads(said), "failed", "compiled using NumPy 1.x")
    faulty(services.torch_loads(seen | {"gloo": False}), "failed", "gloo")


def test_a_missing_tensorboard_fails():
    faulty(
        services.tensorboard("tensorboard_that_is_not_here"), "failed", "pip install tensorboard"
    )
    fine(services.tensorboard())


def test_a_port_in_use_is_a_warning():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        faulty(services.port(number), "warning", f"--port {number + 1}")


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
    fine(run.data(recipe(phantoms)))
    copy = tmp_path / "paired"
    copy.mkdir()
    for file in phantoms["paired"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = recipe(phantoms, data__paired=(str(copy),))
    shard = copy / "paired-000001.tar"
    os.truncate(shard, 1024)
    faulty(run.data(config), "failed", "paired-000001.tar has 1,024 bytes", "check_shards.py")
    shard.unlink()
    faulty(run.data(config), "failed", "paired-000001.tar is missing")
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"samples"', '"simples"'))
    faulty(run.data(config), "failed", "manifest.json")
    faulty(run.data(recipe(phantoms, data__paired=(str(tmp_path / "no"),))), "failed", "no such")
    faulty(run.data(recipe(phantoms, data__unpaired=())), "failed", "--data.unpaired=DIR")
    assert run.data(None).state == "not applicable"


def test_shards_that_no_tar_is_open_for_count_as_files_of_a_rank(phantoms: dict[str, Path]):
    assert run.shard_count(recipe(phantoms)) == 6
    assert run.shard_count(None) == 0


def test_a_step_that_the_ranks_cannot_share_fails_and_too_few_samples_warn(
    phantoms: dict[str, Path],
):
    fine(run.shares(recipe(phantoms), 4))
    faulty(run.shares(recipe(phantoms), 3), "failed", "3 ranks", "multiple")
    many = recipe(phantoms, data__paired_batch=40)
    faulty(run.shares(many, 4), "warning", "24 samples", "--data.paired_batch=24")


def test_shards_that_other_nodes_do_not_see_fail(phantoms: dict[str, Path]):
    local = "disk / ext4 rw 0 0\n"
    faulty(run.place(recipe(phantoms), local, 2), "failed", "the shards")
    fine(run.place(recipe(phantoms), "server:/x / lustre rw 0 0\n", 2))


def test_a_text_tower_that_is_not_here_fails_with_the_command_that_fetches_it(
    phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    config = recipe(phantoms, model__text="nobody/no-bert")
    said = run.towers(config, "demo --model.text=nobody/no-bert")
    faulty(said, "failed", "python tools/prefetch.py demo --model.text=nobody/no-bert")
    fine(run.towers(recipe(phantoms), "demo"))


# SLURM


CONFIG = """Configuration data as of 2026-11-24T17:00:00
JobRequeue              = {requeue}
KillWait                = {kill} sec
MaxArraySize            = {array}
MaxJobCount             = 10000
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SlurmctldParameters     = {parameters}
SLURM_VERSION           = {version}
AccountingStorageType   = {storage}
"""
GOOD = {
    "requeue": 1, "kill": 30, "array": 1001, "parameters": "preempt_send_user_signal",
    "version": "23.11.4", "storage": "accounting_storage/slurmdbd", "grace": 120, "mode": "REQUEUE",
}  # fmt: skip


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
    found = cluster(commands)
    facts = found.config, found.partitions
    fine(slurm.commands(found.commands), slurm.controller(found), slurm.version(found.config))
    fine(slurm.requeue(found.config), slurm.preemption(*facts), slurm.grace(*facts))
    fine(slurm.kill_wait(found.config), slurm.arrays(found.config), slurm.accounting(found))


@pytest.mark.usefixtures("commands")
def test_where_there_is_no_slurm_nothing_fails():
    found = slurm.ask()
    facts = found.config, found.partitions
    for finding in (
        slurm.commands(found.commands), slurm.controller(found), slurm.version(found.config),
        slurm.requeue(found.config), slurm.preemption(*facts), slurm.grace(*facts),
        slurm.kill_wait(found.config), slurm.arrays(found.config), slurm.accounting(found),
    ):  # fmt: skip
        assert finding.state == "not applicable"


def test_half_of_slurms_commands_fail(commands: Path):
    executable(commands, "sbatch", "exit 0")
    faulty(slurm.commands(slurm.ask().commands), "failed", "srun", "module load slurm")


def test_a_controller_that_is_down_fails_and_is_asked_nothing_more(commands: Path):
    found = cluster(commands, ping="DOWN")
    faulty(slurm.controller(found), "failed", "DOWN", "--cluster local")
    assert slurm.requeue(found.config).state == "not applicable"


@pytest.mark.parametrize(
    ("changes", "check", "state", "word"),
    [
        ({"version": "19.05.2"}, "version", "warning", "19.05.2"),
        ({"requeue": 0}, "requeue", "failed", "--requeue"),
        ({"parameters": "(null)"}, "preemption", "warning", "preempt_send_user_signal"),
        ({"mode": "CANCEL"}, "preemption", "warning", "CANCEL"),
        ({"grace": 0}, "grace", "warning", "gpu 0 s"),
        ({"kill": 1}, "kill_wait", "warning", "KillWait=30"),
        ({"array": 0}, "arrays", "failed", "MaxArraySize=0"),
        ({"array": 10}, "arrays", "warning", "many arrays"),
        ({"storage": "accounting_storage/none"}, "accounting", "warning", "slurmdbd"),
        ({"sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1"}, "accounting",
         "warning", "is disabled"),
    ],
)  # fmt: skip
def test_what_a_cluster_does_not_allow_is_told(commands: Path, changes, check, state, word):
    found = cluster(commands, **changes)
    facts = {
        "preemption": (found.config, found.partitions),
        "grace": (found.config, found.partitions),
        "accounting": (found,),
    }
    faulty(getattr(slurm, check)(*facts.get(check, (found.config,))), state, word)


# all of it


def test_the_report_is_aligned_and_coloured_only_on_a_terminal():
    checks = [
        Check("a", "ok", "fine", "", 0.1),
        Check("longer", "failed", "broken", "mend it", 2.0),
    ]
    plain, coloured = (report(checks, 2.1, "demo", colour) for colour in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[31;1mfailed" in coloured
    first, second, mend = plain.splitlines()[:3]
    assert first.index("fine") == second.index("broken") == mend.index("mend: mend it")
    assert "the slowest: longer, 2.0 s" in plain
    assert plain.splitlines()[-1] == "next: mend what failed, then run this again"
    assert "submit_pretrain.py demo --dry_run" in report(checks[:1], 1.0, "demo", False)


def test_the_command_looks_at_this_machine_and_says_how_to_mend_every_fault(tmp_path: Path):
    command = [sys.executable, "tools/doctor.py", "--json", "--out", str(tmp_path / "runs")]
    before = threading.active_count()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    rows = json.loads(done.stdout)["checks"]
    assert len(rows) >= 50
    assert len({row["name"] for row in rows}) == len(rows)
    states = {row["state"] for row in rows}
    assert states <= {"ok", "warning", "failed", "not applicable"}
    assert all(bool(row["mend"]) == (row["state"] in ("warning", "failed")) for row in rows)
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
    cost = probe.ask(request)["cost"]
    assert cost["gpu"] == "a100-40"
    assert 0 < cost["memory"] < cost["usable"]
    assert "ranks" in probe.ask(request | {"gpus": 3})["cost"]["error"]

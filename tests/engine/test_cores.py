"""How many cores a process may use, by affinity and cgroup."""

import os
from pathlib import Path

import pytest

from maskedclip.engine.cores import SHARE, cores, decoding_threads, reading_threads

STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_CPUS_PER_TASK": "5"}


@pytest.fixture
def eight(monkeypatch):
    """Be on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def grouped(tmp_path: Path, line: str, **files: str) -> tuple[Path, Path]:
    """Return the mount and the list of cgroups, with files such as job/cpu.max."""
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = tmp_path / "own"
    own.write_text(line + "\n")
    return tmp_path / "cgroup", own


@pytest.mark.usefixtures("eight")
def test_without_a_quota_the_affinity_counts(tmp_path):
    assert cores(tmp_path, tmp_path / "absent") == 8
    assert cores(*grouped(tmp_path, "0::/job", **{"job/cpu.max": "max 100000"})) == 8


@pytest.mark.usefixtures("eight")
def test_the_smallest_quota_on_the_way_to_the_root_counts(tmp_path):
    files = {"job/step/cpu.max": "max 100000", "job/cpu.max": "350000 100000"}
    assert cores(*grouped(tmp_path, "0::/job/step", **files)) == 3


@pytest.mark.usefixtures("eight")
def test_in_a_container_the_quota_is_at_the_top(tmp_path):
    files = {"cpu.max": "50000 100000"}
    assert cores(*grouped(tmp_path, "0::/docker/8f2c", **files)) == 1  # half a core is one


@pytest.mark.usefixtures("eight")
def test_quotas_of_cgroup_version_1_are_read(tmp_path):
    files = {
        "cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
        "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    assert cores(*grouped(tmp_path, "4:cpu,cpuacct:/job", **files)) == 2


@pytest.mark.parametrize(
    ("asked", "environment", "threads"),
    [
        (None, {}, 7),
        (None, {"OMP_NUM_THREADS": "1"}, 7),  # torchrun's, or of a shell's profile
        (None, {SHARE: "4"}, 3),  # of a launcher that has started two here
        (None, {"LOCAL_WORLD_SIZE": "2"}, 3),  # ranks of submitit or torchrun on this machine
        (None, {"LOCAL_WORLD_SIZE": "16"}, 2),
        (None, {SHARE: "6", "LOCAL_WORLD_SIZE": "2"}, 2),
        (None, STEP, 4),
        (None, STEP | {"LOCAL_WORLD_SIZE": "2"}, 4),  # the ranks are the tasks
        # torchrun in a task: its ranks share it
        (None, STEP | {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, 2),
        (None, STEP | {"SLURM_CPUS_PER_TASK": "64"}, 7),
        (0, {}, 0),
        (40, {}, 40),
    ],
)
@pytest.mark.usefixtures("eight")
def test_all_cores_decode_but_the_one_that_trains(asked, environment, threads):
    assert decoding_threads(asked, environment) == threads


def test_readers_are_sixteen_or_two_for_each_thread_that_decodes():
    assert [reading_threads(None, decoding) for decoding in (0, 2, 16)] == [16, 16, 32]
    assert reading_threads(3, 16) == 3

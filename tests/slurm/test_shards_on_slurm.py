import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from maskedclip.jobs.shard_builds import submit
from maskedclip.shards.make import ShardRequest, build
from maskedclip.shards.make_command import main

pytestmark = pytest.mark.slurm
FLAGS = ["phantom", "--count=90", "--size=96", "--samples_per_shard=10"]
ON_SLURM = ["--jobs=3", "--cluster=slurm", "--workers=1", "--partition=main", "--hours=1"]


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "phantom"
    build(ShardRequest(dataset="phantom", count=90, size=96, samples_per_shard=10, out=out))
    return contents(out)


def submitted(out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str, Path]:
    main([*FLAGS, f"--out={out}", *ON_SLURM], submit=submit)
    said = capsys.readouterr().out
    match = re.search(r"3 parts as job (\d+), and job (\d+) to merge", said)
    assert match, said
    log = re.search(r"tail -F (\S+)", said)
    assert log
    return match[1], match[2], Path(log[1])


def test_an_array_and_its_merge_give_the_bytes_of_one_build(
    whole: dict[str, bytes],
    until_idle: Callable[[float], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "shards" / "phantom"
    _, _, log = submitted(out, capsys)
    until_idle(120)
    assert contents(out) == whole
    assert "90 samples in 9 shards" in log.read_text()


def test_parts_that_were_cancelled_are_written_by_the_merge(
    whole: dict[str, bytes],
    until_idle: Callable[[float], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "shards" / "phantom"
    array, _, _ = submitted(out, capsys)
    subprocess.run(["scancel", f"{array}_1", f"{array}_2"], check=True)
    until_idle(120)
    assert contents(out) == whole


def test_a_part_that_is_requeued_goes_on(
    whole: dict[str, bytes],
    until_idle: Callable[[float], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "shards" / "phantom"
    array, _, _ = submitted(out, capsys)
    while not (out / "phantom-000000.tar").exists():
        pass
    subprocess.run(["scontrol", "requeue", f"{array}_0"], check=True)
    until_idle(120)
    assert contents(out) == whole

from pathlib import Path

import pytest

from maskedclip.data.storage.shards import Shards
from maskedclip.jobs.shard_builds import submit
from maskedclip.shards.building.build import begin, build_part, locked
from maskedclip.shards.make import ShardRequest, build, plan_of
from maskedclip.shards.make_command import main

FLAGS = ["phantom", "--count=50", "--size=48", "--samples_per_shard=8", "--workers=1"]


def request(out: Path) -> ShardRequest:
    return ShardRequest(
        dataset="phantom", count=50, size=48, samples_per_shard=8, workers=1, out=out
    )  # 7 shards


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "phantom"
    build(request(out), progress=False)
    return contents(out)


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_any_number_of_parts_gives_the_same_bytes(
    parts: int, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "phantom"
    plan = plan_of(request(out))
    begin(out, plan)
    for part in reversed(range(parts)):
        build_part(out, plan, part, parts, workers=1)
    with pytest.raises(ValueError, match="not finished"):
        Shards(out)
    build(request(out), progress=False)
    assert contents(out) == whole


def test_what_a_lost_part_has_left_the_merge_writes(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "phantom"
    plan = plan_of(request(out))
    begin(out, plan)
    build_part(out, plan, 1, 3, workers=1)
    kept = (out / "phantom-000001.tar").stat().st_mtime_ns
    (out / "phantom-000004.tar").write_bytes(b"cut")
    build(request(out), progress=False)
    assert contents(out) == whole
    assert (out / "phantom-000001.tar").stat().st_mtime_ns == kept


def test_a_part_that_is_run_again_when_all_is_done_does_nothing(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "phantom"
    build(request(out), progress=False)
    build_part(out, plan_of(request(out)), 0, 2, workers=1)
    assert contents(out) == whole


def test_parts_stand_beside_one_another_and_not_beside_a_whole_build(tmp_path: Path) -> None:
    plan = plan_of(request(tmp_path / "phantom"))
    begin(tmp_path / "phantom", plan)
    with locked(tmp_path / "phantom", "part-0-of-2"):
        build_part(tmp_path / "phantom", plan, 1, 2, workers=1)
        with pytest.raises(RuntimeError, match="another build is writing"):
            build_part(tmp_path / "phantom", plan, 0, 2, workers=1)
        with pytest.raises(RuntimeError, match="another build is writing"):
            build(request(tmp_path / "phantom"), progress=False)
    build(request(tmp_path / "phantom"), progress=False)


def test_jobs_on_this_machine_end_with_the_finished_dataset(
    whole: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards" / "phantom"
    main([*FLAGS, f"--out={out}", "--jobs=2", "--cluster=local"], submit=submit)
    assert contents(out) == whole
    said = capfd.readouterr().out
    assert "50 samples in 7 shards" in said
    assert "next: python" in said
    assert [path.name for path in out.parent.iterdir()] == ["phantom"]
    main([*FLAGS, f"--out={out}", "--jobs=2", "--cluster=local"], submit=submit)
    assert "nothing to do" in capfd.readouterr().out


def test_a_part_that_fails_is_reported_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "phantom"
    begin(out, plan_of(request(out)))
    with locked(out), pytest.raises(SystemExit) as ended:
        main([*FLAGS, f"--out={out}", "--jobs=2", "--cluster=local"], submit=submit)
    assert ended.value.code == 2
    assert "another build is writing to it" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--partition=gpu"], "--partition is only for --jobs"),
        (["--jobs=2", "--cluster=moon"], "--cluster moon: use auto, slurm or local"),
        (["--jobs=0"], "--jobs 0 is out of range"),
    ],
)
def test_a_mistake_in_the_flags_of_jobs_costs_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*FLAGS, f"--out={tmp_path / 'phantom'}", *flags], submit=submit)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_names_every_flag_of_jobs() -> None:
    from maskedclip.shards.make_command import MAKE_SHARDS, ONLY_WITH_JOBS

    shown = " ".join(MAKE_SHARDS.options[0].lines(every=False))
    for flag in ("jobs", *ONLY_WITH_JOBS):
        assert f"--{flag}" in shown

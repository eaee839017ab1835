"""A grid is finished cell by cell as its files say, and starts only what is missing."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from maskedclip.config import Config, FinetuneConfig, LaunchConfig, override
from maskedclip.grid.ablation_command import read_ablation
from maskedclip.grid.cells import finetunings, grid_of, pretrainings, run_directory, system
from maskedclip.grid.local_pool import run
from maskedclip.grid.manifest import (
    JOBS,
    LOCK,
    Grid,
    Submission,
    append,
    cell_of,
    finished,
    read,
    run_of,
    submissions,
    write,
)  # fmt: skip
from maskedclip.grid.slurm_arrays import (
    arrays_of,
    jobs_before,
    missing,
    parameters,
    run_cell,
    submit,
)  # fmt: skip
from maskedclip.grid.start import start
from maskedclip.jobs.submit import script
from maskedclip.metrics.file_lock import locked
from maskedclip.pretrain.loop import pretrain
from maskedclip.recipes import demo

LAUNCH = asdict(LaunchConfig(gpus=0, cluster="local"))


@pytest.fixture
def grid(small: Config, phantoms: dict[str, Path], tmp_path: Path) -> Grid:
    """Two systems, one of which has no shards, with two fine-tunings each."""
    directory = tmp_path / "grids" / "two"
    broken = override(small, {"data.paired": (str(tmp_path / "nothing"),)})
    pretrained = pretrainings({"whole": small, "broken": broken}, directory / "runs")
    recipe = FinetuneConfig(
        dataset=str(phantoms["heldout"]), task="disease", out=str(directory / "runs"),
        image_size=32, epochs=2, warmup_epochs=1, threads=0,
    )  # fmt: skip
    tuned = [
        replace(recipe, weights=run_directory(cell), seed=seed, name=f"{cell.name}-{seed}")
        for cell in pretrained
        for seed in range(2)
    ]
    cells = [*pretrained, *finetunings(tuned, pretrained)]
    return grid_of(directory, cells, LAUNCH, 1.0, "local", 2)


def test_a_manifest_is_read_as_it_was_written(grid: Grid) -> None:
    write(grid)
    again = read(grid.directory)
    assert json.dumps(again._asdict(), default=str) == json.dumps(grid._asdict(), default=str)
    assert [path.name for path in grid.directory.iterdir()] == ["grid.json"]
    for content in ("{", '{"version": 9}', "[]"):
        (grid.directory / "grid.json").write_text(content)
        with pytest.raises(ValueError, match="is no manifest of a grid"):
            read(grid.directory)
    with pytest.raises(ValueError, match="is no grid"):
        read(grid.directory / "other")


def test_a_half_written_line_costs_that_line_alone(grid: Grid) -> None:
    write(grid)
    first, second = (Submission("whole", f"{job}_0", 1, 0.0, "logs/") for job in (1, 2))
    append(grid, [first])
    with (grid.directory / JOBS).open("a") as file:
        file.write('{"cell": "whole", "jo')
    append(grid, [second])
    assert submissions(grid) == [first, second]


def test_a_pretraining_is_finished_when_its_last_step_and_both_files_are_there_whole(
    grid: Grid,
) -> None:
    cell = cell_of(grid, "whole")
    assert not finished(grid, cell)
    pretrain(override(Config(), cell.config))
    assert finished(grid, cell)
    run = run_of(grid, cell)
    longer = cell._replace(config=cell.config | {"optim.steps": 7})
    assert not finished(grid, longer)
    for name in ("encoder.safetensors", "model.safetensors", "metrics.jsonl", "config.json"):
        whole = (run / name).read_bytes()
        for damaged in (whole[:-200], whole[:5], b""):
            (run / name).write_bytes(damaged)
            assert not finished(grid, cell), (name, len(damaged))
        (run / name).write_bytes(whole)
    assert finished(grid, cell)


def test_one_array_a_pretraining_is_split_and_waits_for_its_element_alone(grid: Grid) -> None:
    arrays = arrays_of(grid.cells, most=1, parallelism=4)
    assert [(b.stage, [c.name for c in b.cells]) for b in arrays] == [
        ("pretrain", ["whole"]), ("pretrain", ["broken"]), ("finetune", ["whole-0"]),
        ("finetune", ["whole-1"]), ("finetune", ["broken-0"]), ("finetune", ["broken-1"]),
        ("report", ["report"]),
    ]  # fmt: skip
    assert [b.parallelism for b in arrays] == [2, 2, 1, 1, 1, 1, 4]
    # fewer at a time than arrays: some come behind others, in lanes of one each
    arrays = [b for b in arrays_of(grid.cells, most=1, parallelism=3) if b.stage == "finetune"]
    assert [(b.lane, b.parallelism) for b in arrays] == [(0, 1), (1, 1), (2, 1), (0, 1)]
    whole, of_whole, of_broken, report = arrays_of(grid.cells, most=1000, parallelism=None)
    jobs = {"whole": "7_0", "broken": "7_1"}
    assert jobs_before(whole, jobs) == ()
    assert jobs_before(of_whole, jobs) == ("7_0",)
    assert jobs_before(of_broken, jobs) == ("7_1",)
    jobs |= {"whole-0": "8_0", "whole-1": "8_1", "broken-0": "9_0"}
    assert jobs_before(report, jobs) == ("8", "9")
    waits = of_whole._replace(behind=("7_0",), parallelism=2)
    text = script(parameters(grid, waits, ["export CODE=1"]), grid.directory / "logs", "python3", 2)
    assert "#SBATCH --array=0-1%2\n" in text
    assert "#SBATCH --dependency=afterany:7_0\n" in text
    assert "export CODE=1\n" in text


def test_several_fine_tunings_are_one_job_and_a_pre_training_is_its_own(grid: Grid) -> None:
    arrays = arrays_of(grid.cells, most=1000, parallelism=None, pack=2)
    assert [[[c.name for c in job] for job in b.elements] for b in arrays] == [
        [["whole"], ["broken"]], [["whole-0", "whole-1"]], [["broken-0", "broken-1"]], [["report"]],
    ]  # fmt: skip


def test_a_cell_whose_needs_are_not_finished_says_so_and_ends(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_cell(grid, cell_of(grid, "broken-0"))
    assert stopped.value.code == 3
    assert capsys.readouterr().err == "waits for broken, which is not finished\n"
    assert not grid.directory.exists()


@pytest.mark.slow
def test_a_chain_here_holds_nothing_for_a_failure_and_goes_on_with_what_is_left(
    grid: Grid, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write(grid)
    assert run(grid) == 1
    said = capfd.readouterr().err
    assert "failed: broken-0: waits for broken, which is not finished" in said
    assert "nothing: no such directory" in said
    done = {cell.name for cell in grid.cells if finished(grid, cell)}
    assert done == {"whole", "whole-0", "whole-1", "report"}
    assert "broken-1: is not finished" in (grid.directory / "report/index.html").read_text()
    absent = Path(cell_of(grid, "broken").config["data.paired"][0])
    absent.symlink_to(cell_of(grid, "whole").config["data.paired"][0])
    assert {cell.name for cell in missing(grid)[0]} == {
        "broken", "broken-0", "broken-1", "report",
    }  # fmt: skip
    assert run(grid) == 0
    assert missing(grid) == ([], {}, [])
    attempts = {one.cell: one.attempt for one in submissions(grid)}
    assert attempts["whole"] == 1
    assert attempts["broken"] == 2


def test_submitting_another_table_adds_cells_and_other_cells_of_a_name_are_refused(
    grid: Grid, small: Config
) -> None:
    write(grid)
    more = pretrainings({"third": small}, grid.directory / "runs")
    joined = grid_of(grid.directory, more, LAUNCH, 1.0, "local", None)
    assert [cell.name for cell in joined.cells][-2:] == ["third", "report"]
    assert len(joined.cells) == len(grid.cells) + 1
    other = pretrainings({"whole": override(small, {"optim.steps": 9})}, grid.directory / "runs")
    with pytest.raises(ValueError, match=r"a cell whole with another optim\.steps"):
        grid_of(grid.directory, other, LAUNCH, 1.0, "local", None)
    speed = pretrainings({"whole": override(small, {"data.threads": 2})}, grid.directory / "runs")
    grid_of(grid.directory, speed, LAUNCH, 1.0, "local", None)


def test_a_grid_that_another_process_runs_gets_no_other_cells(grid: Grid, small: Config) -> None:
    write(grid)
    before = read(grid.directory)
    more = pretrainings({"third": small}, grid.directory / "runs")
    joined = grid_of(grid.directory, more, LAUNCH, 1.0, "local", None)
    with (
        locked(grid.directory / LOCK, wait=False, without=""),
        pytest.raises(RuntimeError, match="another process submits or runs it"),
    ):
        start(joined)
    assert read(grid.directory) == before


def test_a_plan_shows_every_script_and_touches_nothing(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = grid._replace(cluster="slurm")
    assert start(planned, {}) == 0
    shown = capsys.readouterr().out
    assert "2 pre-trainings, 4 fine-tunings, 1 reports" in shown
    assert shown.count("#!/bin/bash") == 4
    assert "--dependency=afterany:ARRAY1_1\n" in shown
    assert "--dependency=afterany:ARRAY2:ARRAY3\n" in shown
    assert not grid.directory.exists()


def test_what_a_system_does_without_stays_away_and_the_rest_shrinks() -> None:
    recipe = Config(name="less")
    recipe = override(recipe, {"model.bridge_depth": 0, "loss.mfd": 0.0})
    merged = system(recipe, demo(), {"optim.steps": 5, "loss.mfd": 2.0})
    assert (merged.model.bridge_depth, merged.loss.mfd) == (0, 0.0)
    assert (merged.model.size, merged.data.draw_phantoms, merged.optim.steps) == ("micro", 3000, 5)
    assert merged.name == "less"


def test_the_command_line_is_checked_before_anything_is_touched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, answer in (
        (["demo"], "systems are named by --table or --systems=NAME"),
        (["--systems=demmo"], "did you mean demo?"),
        (["--systems=demo", "--base=dmo"], "did you mean demo?"),
        (["--systems=demo", "--seed_s=1"], "did you mean --seeds?"),
        (["--systems=demo", "--finetune.epoch=1"], "did you mean --finetune.epochs?"),
        (["--systems=demo", "--seeds=0"], "at least 1"),
        (["--systems=demo", "--name=a/b"], "write a plain folder name"),
        (["--systems=demo", "--optim.steps=few"], "optim.steps"),
    ):
        with pytest.raises(SystemExit) as stopped:
            read_ablation("", arguments)
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert answer in said
        assert said.count("\n") == 1


def test_jobs_that_a_killed_submission_left_are_named_and_not_doubled(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(grid)
    logs, commands = (grid.directory / "logs").resolve(), tmp_path / "bin"
    append(grid, [Submission("whole", "7_0", 1, 0.0, "logs/7_0_")])
    commands.mkdir()
    queue = commands / "squeue"
    queue.write_text(
        "#!/bin/sh\n"
        f"echo '7_0|{logs}/%A_%a_0_log.out|'\n"
        f"echo '12_[1-3%2]|{logs}/%A_%a_0_log.out|'\n"
        "echo '13|/elsewhere/%j_0_log.out|'\n"
    )
    queue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    with pytest.raises(RuntimeError, match=r"jobs 12 of it wait or run.*scancel 12, then submit"):
        submit(grid)
    assert len(submissions(grid)) == 1


def test_a_cluster_that_is_full_is_not_asked_as_sbatch_would_wait_for_it(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(grid)
    commands = tmp_path / "bin"
    commands.mkdir()
    answers = {
        "scontrol": "echo 'MaxJobCount = 4'; echo 'MaxArraySize = 1001'",
        "squeue": 'case "$*" in *format=%i*) echo 1; echo 2; echo 3;; esac',
        "sbatch": "echo it was asked >&2; exit 1",
    }
    for name, words in answers.items():
        (commands / name).write_text(f"#!/bin/sh\n{words}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    submitted = submit(grid)
    assert (submitted.done, submitted.limit) == ([], "MaxJobCount of this cluster")
    assert submitted.waiting == [cell.name for cell in grid.cells]


def test_weights_of_a_hub_keep_their_name_and_files_get_their_whole_path(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.pth").touch()
    names = {"mine.pth": str(tmp_path / "mine.pth"), "timm/vit_small": "timm/vit_small", "": ""}
    for given, kept in names.items():
        (cell,) = pretrainings({"a": override(small, {"init_from": given})}, tmp_path)
        assert cell.config["init_from"] == kept
    names = {"mine.pth": str(tmp_path / "mine.pth"), "random": "random", "org/vit": "org/vit"}
    for given, kept in names.items():
        (cell,) = finetunings([FinetuneConfig(weights=given, name="a", dataset="eyes")], [])
        assert cell.config["weights"] == kept

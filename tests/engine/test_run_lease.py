"""Two starts of a run at once: the later one has it, and the earlier writes nothing more."""

import json
from pathlib import Path

import pytest
import torch

from maskedclip.engine import checkpoint
from maskedclip.engine.checkpoint import Checkpoints
from maskedclip.engine.checkpoint_files import newest_first
from maskedclip.engine.distributed import process_group
from maskedclip.engine.preemption import LEAVE, Preempted, Replaced
from maskedclip.engine.run_lease import SIGNED, Life
from maskedclip.engine.step_log import Log


def log(run: Path, done: int) -> Log:
    return Log(run, done, 10, life=begun(run), epoch_steps=10, images=1, peak_flops=1.0)


def begun(run: Path) -> Life:
    life = Life(run)
    life.begin()
    return life


def step(log: Log, number: int) -> None:
    log.add({"loss": torch.tensor(1.0)}, 1.0)
    log.write(number, 1e-3)


def steps(run: Path) -> list[int]:
    return [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_earlier_start_leaves_what_a_later_one_has_taken_over(tmp_path: Path) -> None:
    with process_group(), log(tmp_path, 0) as earlier:
        for number in (1, 2, 3):
            step(earlier, number)
        with log(tmp_path, 2) as later:
            assert steps(tmp_path) == [1, 2]
            step(later, 3)
            with pytest.raises(Replaced, match="a later start of this run has it now") as found:
                step(earlier, 4)
            step(later, 4)
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert isinstance(found.value, Preempted)
    assert found.value.asked == LEAVE  # not to be queued again


@pytest.mark.parametrize("aside", [True, False])
def test_a_save_that_a_later_start_overtakes_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: bool
) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    folder = tmp_path / "checkpoints"
    to_disk = checkpoint.bring_to_disk

    def overtaken(directory: Path, rank: int) -> dict[str, str]:
        begun(tmp_path)  # it looks for the newest checkpoint from here on
        return to_disk(directory, rank)

    def save(step: int, life: Life) -> None:
        with Checkpoints(folder, 2, aside=aside, life=life) as checkpoints:
            checkpoints.save(step, model, None, optimizer)

    with process_group():
        life = begun(tmp_path)
        save(1, life)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "bring_to_disk", overtaken)
            with pytest.raises(Replaced, match="a later start of this run has it now"):
                save(2, life)
        assert [path.name for path in newest_first(folder)] == ["step-00000001"]
        with pytest.raises(Replaced):
            save(2, life)
        save(2, begun(tmp_path))
    assert {path.name for path in folder.iterdir()} == {"step-00000001", "step-00000002"}


def test_a_life_that_begins_late_leaves_the_run_to_the_next_life_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "10")
    with process_group(), log(tmp_path, 0) as now:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "9")
        with pytest.raises(Replaced, match=r"job 5, restart 10, process \d+ on "):
            log(tmp_path, 0)
        step(now, 1)
        monkeypatch.setenv("SLURM_JOB_ID", "6")  # another job counts from 0 again
        monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
        with log(tmp_path, 1) as other:
            step(other, 2)
    assert steps(tmp_path) == [1, 2]


def test_a_signature_that_a_lost_machine_left_empty_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / SIGNED).touch()
    with process_group(), log(tmp_path, 0) as run:
        step(run, 1)
    assert steps(tmp_path) == [1]

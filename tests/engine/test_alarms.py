"""Each alarm on rows that show its sign, and on those of a healthy run."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from maskedclip.engine.alarms import Alarm, Alarms
from maskedclip.engine.distributed import process_group
from maskedclip.engine.run_lease import RunLease
from maskedclip.engine.step_log import StepLog
from maskedclip.recipes import RECIPES

ROOT = Path(__file__).parents[2]
REFERENCES = ROOT / "maskedclip" / "pretrain" / "reference_curves"


def healthy(step: int) -> dict[str, float]:
    return {
        "step": 10 * step, "loss": 4.0 * 0.98**step + 0.01 * (step % 3),
        "grad_norm": 1.0 + 0.1 * (step % 4), "data_wait": 0.02,
        "logit_scale": 14.0 + 0.1 * step, "feature_rank": 12.0,
        "target_cosine_constant": 0.9, "gradient_share/mfd/encoder": 0.05,
        "gradient_share/mfd/blocks 0": 0.001,
    }  # fmt: skip


def raised(changes: dict[str, float], first: int = 50, last: int = 60) -> list[Alarm]:
    """Return the alarms of 80 rows, some of which are changed."""
    alarms = Alarms(warmup=50, least_share=0.01)
    found = []
    for step in range(1, 81):
        found += alarms.check(healthy(step) | (changes if first <= step < last else {}))
    return found


def test_a_healthy_run_raises_none() -> None:
    assert raised({}) == []


@pytest.mark.parametrize("path", sorted(REFERENCES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_run_that_was_measured_to_learn_raises_none_by_its_recipe(path: Path) -> None:
    alarms = Alarms(warmup=400, least_share=RECIPES[path.stem]().log.least_share)
    for line in path.read_text().splitlines():
        assert alarms.check(json.loads(line)) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("collapse", {"feature_rank": 1.05}),
        ("collapse", {"cls_std": 0.2}),
        ("teacher near constant", {"target_cosine_constant": 0.999}),
        ("gradient share of mfd", {"gradient_share/mfd/encoder": 0.004}),
        ("tau at its clamp", {"logit_scale": 100.0}),
        ("loss not falling", {"loss": 4.1}),
        ("spike", {"loss": 9.0}),
        ("spike", {"grad_norm": 40.0}),
        ("starvation", {"data_wait": 0.6}),
    ],
)
def test_an_alarm_is_said_once_until_it_clears_with_what_to_do(
    name: str, changes: dict[str, float]
) -> None:
    found = [alarm for alarm in raised(changes) if alarm.name == name]
    assert len(found) == 1
    assert "\n" not in found[0].line
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert f"### {name.replace(' of mfd', ' of a term')}\n" in page
    assert len([alarm for alarm in raised(changes, last=90) if alarm.name == name]) == 1


def test_a_norm_that_rises_while_a_plateau_ends_is_no_spike() -> None:
    """As of a run of clip on four pairs, whose loss began to fall at row 110."""
    rises = [0.26] * 30 + [0.31, 0.84, 6.34, 15.3, 6.3, 17.9]
    losses = [1.37] * 31 + [1.32, 1.23, 1.22, 0.99, 0.99]
    alarms = Alarms(warmup=0, least_share=0.0)
    rows = [{"loss": x, "grad_norm": y} for x, y in zip(losses, rises, strict=True)]
    assert [alarm.name for row in rows for alarm in alarms.check(row)] == []


def test_a_loss_that_is_left_as_rounding_has_no_spikes_but_one_that_comes_back_has() -> None:
    losses = [0.7, 0.5, 0.3] + [0.0] * 30 + [3.7e-8, 0.0, 1e-4, 0.0, 0.9]
    alarms = Alarms(warmup=0, least_share=0.0)
    rows = [{"loss": value, "grad_norm": value} for value in losses]
    found = [(i, alarm.name) for i, row in enumerate(rows) for alarm in alarms.check(row)]
    assert found == [(len(losses) - 1, "spike")]


def test_one_bad_look_is_no_collapse() -> None:
    assert raised({"feature_rank": 1.0, "target_cosine_constant": 1.0}, last=51) == []


def test_a_loss_at_chance_for_fewer_than_200_steps_is_no_alarm() -> None:
    alarms = Alarms(warmup=0, least_share=0.0)
    rows = [{"step": step, "loss": 2.08} for step in range(3, 240, 3)]
    found = [row["step"] for row in rows for _ in alarms.check(row)]
    assert found == [201]


def logged(run: Path, done: int, losses: list[float]) -> None:
    lease = RunLease(run)
    lease.take()
    alarms = Alarms(warmup=0, least_share=0.0)
    with StepLog(
        run, done, 999, lease=lease, epoch_steps=9, images=1, peak_flops=1.0, alarms=alarms
    ) as log:
        for step, loss in enumerate(losses, start=done + 1):
            log.add({"loss": torch.tensor(loss)}, 1.0)
            log.write(step, 1e-3)


def test_an_alarm_is_in_the_log_in_the_rows_and_in_tensorboard_and_is_not_said_anew_by_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with process_group(), caplog.at_level(logging.WARNING):
        logged(tmp_path, 300, [4.0] * 26)
        assert caplog.text.count("the loss is 4, and was 4 at the beginning") == 1
        caplog.clear()
        logged(tmp_path, 326, [4.0, 4.0])
        assert "the loss is" not in caplog.text
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    said = {row["step"]: row["alarms"] for row in rows if "alarms" in row}
    assert said.keys() == {326}
    assert "optim.base_lr" in said[326]["loss not falling"]
    events = EventAccumulator(str(tmp_path)).Reload()
    (event,) = events.Tensors("alarms/loss not falling/text_summary")
    assert event.step == 326


def test_dino_s_loss_may_rise_while_what_it_can_learn_falls() -> None:
    def named(kl_of: Callable[[int], float]) -> set[str]:
        alarms, found = Alarms(warmup=10, least_share=0.001), set[str]()
        for number in range(60):
            entropy = 4.0 + 2.0 * number / 60  # as the centre takes off what images share
            row = {"step": 20 * number, "loss": entropy + kl_of(number), "kl_dino": kl_of(number)}
            found |= {alarm.name for alarm in alarms.check(row)}
        return found

    assert named(lambda number: 1.0 - number / 100) == set()
    assert named(lambda _: 1.0) == {"loss not falling"}

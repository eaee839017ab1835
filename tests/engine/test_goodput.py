"""Goodput by hand, through a kill and a start that goes on from an earlier checkpoint."""

import pytest

from maskedclip.engine.goodput import Goodput


def row(log: Goodput, step: int, now: float) -> dict[str, float]:
    return {"step": step, **log.row(now)}


def test_an_hour_of_training_a_kill_and_a_queue_are_told_apart() -> None:
    log = Goodput(None, None, 0.0)
    log.interval(60.0, {"waiting": 6.0, "saving": 4.0, "measuring": 2.0})
    kept = row(log, 10, 60.0)
    assert kept["goodput/productive"] == pytest.approx(48 / 60)
    assert kept["goodput/waiting"] == pytest.approx(6 / 60)
    log.interval(90.0, {})  # of which nothing was saved
    last = row(log, 15, 90.0)
    again = Goodput(kept, last, 290.0)  # 200 s later
    again.interval(310.0, {})
    found = again.row(310.0)
    assert found["run_s"] == pytest.approx(310)
    seconds = {key.partition("/")[2]: share * 310 for key, share in found.items() if "/" in key}
    assert seconds == pytest.approx(
        {
            "productive": 48 + 20, "waiting": 6, "saving": 4, "measuring": 2, "replayed": 30,
            "restarting": 200,
        }
    )  # fmt: skip


def test_a_run_that_lost_all_it_did_has_replayed_it() -> None:
    log = Goodput(None, None, 0.0)
    log.interval(30.0, {})
    again = Goodput(None, row(log, 5, 30.0), 40.0)
    found = again.row(40.0)
    assert found["goodput/replayed"] == pytest.approx(0.75)
    assert found["goodput/restarting"] == pytest.approx(0.25)


def test_steps_that_a_fault_has_taken_again_are_replayed() -> None:
    log = Goodput(None, None, 0.0)
    log.interval(10.0, {"waiting": 3.0}, lost=True)
    log.interval(20.0, {})
    assert log.row(20.0)["goodput/replayed"] == pytest.approx(0.5)


def test_rows_of_older_code_and_a_clock_that_was_set_back_are_no_fault() -> None:
    log = Goodput({"step": 3, "loss": 1.0}, {"step": 4, "loss": 1.0}, 100.0)
    log.interval(90.0, {})
    log.interval(95.0, {})
    assert log.row(95.0)["goodput/productive"] == 1
    assert log.row(95.0)["run_s"] == 5

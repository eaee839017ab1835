"""When turns of a benchmark are called disturbed, and what the machine's other programs took."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from benches import turns

    return turns


def test_turns_of_a_busy_machine_give_no_ratio(turns):
    assert turns.disturbance([2.4, 5.1, 4.9, 13.4], 0.0) == "disturbed: turns 2.4 to 13.4; no ratio"
    assert turns.disturbance([4.0, 5.0, 5.9], 0.0) == ""
    assert turns.disturbance([4.0, 5.0, 6.1], 0.0) == "disturbed: turns 4 to 6.1; no ratio"


def test_of_ten_turns_the_lowest_and_the_highest_do_not_count(turns):
    assert turns.disturbance([1.0, *[4.0] * 8, 20.0], 0.0) == ""
    assert turns.disturbance([1.0, 1.0, *[4.0] * 7, 20.0], 0.0).startswith(
        "disturbed: turns 1 to 4"
    )


def test_other_programs_that_take_more_than_a_tenth_of_the_processors_disturb(turns):
    assert turns.disturbance([4.0, 4.0], 0.09) == ""
    told = "disturbed: other programs took 25% of the processors; no ratio"
    assert turns.disturbance([4.0, 4.0], 0.25) == told


def test_where_one_ratio_is_disturbed_none_is_called_and_their_range_is_said(turns):
    found = turns.called(0.0, ratio=[4.0, 4.4, 4.2], share_of_ceiling=[0.3, 0.9, 0.8])
    assert found == {
        "ratio": None, "lowest_ratio": 4.0, "highest_ratio": 4.4,
        "share_of_ceiling": None, "lowest_share_of_ceiling": 0.3, "highest_share_of_ceiling": 0.9,
        "others_share": 0.0, "disturbed": "disturbed: turns 0.3 to 0.9; no ratio",
    }  # fmt: skip
    assert turns.called(0.0, ratio=[4.0, 4.4, 4.2])["ratio"] == 4.2


def test_the_time_of_a_child_is_ours_and_not_that_of_others(turns):
    before = turns.tree_cpu_s(os.getpid())
    code = "import time\nwhile time.process_time() < 0.3: pass"
    child = subprocess.Popen([sys.executable, "-c", code])
    while turns.tree_cpu_s(child.pid) < 0.15:  # of one that runs
        time.sleep(0.01)
    child.wait()
    assert turns.tree_cpu_s(os.getpid()) - before >= 0.28  # ended, to a tick
    work = turns.OtherWork()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    assert 0 <= work.share() <= 1

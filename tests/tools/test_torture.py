"""The torture suite finds nothing in a short form, and counts what it would find."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


QUICK = {"checkpoints": 4, "shards": 41, "images": 12, "weights": 140}  # trials


@pytest.mark.parametrize("section", QUICK)
def test_a_few_trials_of_a_section_find_nothing(section: str) -> None:
    from tortures.suite import Suite
    from tortures.trials import OURS

    suite = Suite(seed=1, minutes=5, most=QUICK[section])
    suite.run(section, 1)
    assert suite.failures() == []
    row = suite.rows[section, OURS]
    assert row.tried == QUICK[section]
    assert row.counts["refused"] > 0


def test_a_value_that_differs_by_a_bit_is_silent() -> None:
    from tortures.trials import compared

    whole = {"a": torch.tensor([0.0, torch.nan])}
    assert compared(whole, {"a": whole["a"].clone()}).outcome == "harmless"
    assert compared({"a": torch.tensor([-0.0, torch.nan])}, whole).outcome == "SILENT"
    assert compared({}, whole).outcome == "SILENT"


def test_a_reader_that_checks_nothing_is_found_out_with_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import torture

    monkeypatch.setattr("maskedclip.engine.checkpoint.verify", lambda _: None)
    flags = ["--only=checkpoints", "--seed=3", "--minutes=5"]
    assert torture.main([*flags, "--trials=6"]) == 1
    said = capsys.readouterr().out
    assert "SILENT: " in said
    repeat = next(line.split() for line in said.splitlines() if "--number=" in line)
    assert repeat[:3] == ["python", "tools/torture.py", "--only=checkpoints"]
    assert torture.main([*repeat[2:], "--minutes=5"]) == 1
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(TOOLS))
    assert torture.main([*repeat[2:], "--minutes=5"]) == 0


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (["--only=shard"], "no such section; did you mean shards?"),
        (["--minutes=0"], "use more than 0"),
        (["--number=3"], "give --only=SECTION and --seed=S with it"),
    ],
)
def test_a_wrong_flag_ends_in_a_line(
    flags: list[str], answer: str, capsys: pytest.CaptureFixture
) -> None:
    import torture

    with pytest.raises(SystemExit) as ended:
        torture.main(flags)
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert answer in said


@pytest.mark.slow
def test_ninety_seconds_of_the_sections_that_need_no_ranks_find_nothing() -> None:
    sections = "--only=checkpoints,shards,images,weights,saves,hostile"
    done = subprocess.run(
        [sys.executable, str(TOOLS / "torture.py"), "--minutes=1.5", "--seed=1", sections],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout

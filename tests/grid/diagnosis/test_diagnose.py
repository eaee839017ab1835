"""Logs of jobs that ended badly, and what is made of them.

A file of logs/ begins with what is to be found (`kind`, a part of `line`, and where it matters of
`traceback`) and what SLURM says, then holds the job's logs, each after a line `=== NAME`.
"""

import random
from pathlib import Path
from typing import NamedTuple

import pytest

from maskedclip.grid.diagnosis.diagnose import Evidence, cause_of
from maskedclip.grid.diagnosis.patterns import REMEDIES

FILES = sorted((Path(__file__).parent / "logs").glob("*.log"))


class Known(NamedTuple):
    kind: str
    line: str
    traceback: str
    evidence: Evidence


def known(path: Path) -> Known:
    head, *parts = ("\n" + path.read_text()).split("\n=== ")
    facts = dict(line.split(":", 1) for line in head.strip().splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    logs = tuple((part.partition("\n")[0], part.partition("\n")[2]) for part in parts)
    evidence = Evidence(logs, facts["state"], facts["exit"], facts["reason"])
    return Known(facts["kind"], facts["line"], facts.get("traceback", ""), evidence)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_log_tells_its_cause(path):
    expected = known(path)
    cause = cause_of(expected.evidence)
    assert cause.kind == expected.kind
    assert expected.line in cause.line
    assert expected.traceback in cause.traceback
    assert "\n" not in cause.line
    assert cause.remedy == REMEDIES[cause.kind]


def test_of_all_logs_95_percent_are_judged_right():
    right = sum(cause_of(known(path).evidence).kind == known(path).kind for path in FILES)
    assert len(FILES) >= 48
    assert right / len(FILES) >= 0.95


def test_a_log_is_short_and_tells_nothing_of_where_it_was_written():
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 60, path.name
        assert not {"/root/", "/work/"} & {text[i : i + 6] for i in range(len(text))}
        assert text.isascii()


def test_no_order_cut_or_mixture_of_logs_is_too_much_for_it():
    cases = [known(path).evidence for path in FILES]
    generator = random.Random(0)
    for _ in range(200):
        chosen = generator.sample(cases, 2)
        lines = [line for case in chosen for _, text in case.logs for line in text.splitlines()]
        if generator.random() < 0.5:
            generator.shuffle(lines)
        text = "\n".join(lines)
        text = text[generator.randrange(len(text) + 1) :][: generator.randrange(len(text) + 1)]
        if generator.random() < 0.3:
            text = text.replace(generator.choice(":[]'\"( "), generator.choice("\0\n\r\x0c"))
        names = generator.choice(
            [("1_0_log.err", "1_1_log.err"), ("log", "log"), ("", "x_9_log.out")]
        )
        half = len(text) // 2
        logs = ((names[0], text[:half]), (names[1], text[half:]))
        words = [generator.choice(case)[:9] for case in (c[1:] for c in chosen)]
        cause = cause_of(Evidence(logs, words[0], words[1], generator.choice(words)))
        assert cause.kind in REMEDIES
        assert cause.line
        assert "\n" not in cause.line


def test_where_nothing_is_said_it_says_so():
    cause = cause_of(Evidence((), "", "", ""))
    assert (cause.kind, cause.traceback) == ("unknown", "")
    assert "SLURM says nothing; the logs say nothing" in cause.line

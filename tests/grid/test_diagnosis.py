"""Logs of jobs that ended badly, and what is made of them.

A file of logs/ begins with the expected answer (`kind`, a part of `line`, and where it matters of
`traceback`) and what SLURM says, then holds the job's logs, each after a line `=== NAME`.
"""

import random
import traceback
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from maskedclip.grid.diagnosis import REMEDIES, UNKNOWN, Cause, Evidence, cause_of

FILES = sorted((Path(__file__).parent / "logs").glob("*.log"))
PACKAGE = Path(__file__).parents[2] / "maskedclip"
OURS = (  # parts of this package's own messages that the patterns know
    "has done nothing for", "asked to stop; step", "which is not finished",
    "a later attempt of this run holds its lease", "another process is fine-tuning there",
    "another start of this run has begun",
)  # fmt: skip


class Expected(NamedTuple):
    kind: str
    line: str
    traceback: str
    evidence: Evidence


def expected_of(path: Path) -> Expected:
    head, *parts = ("\n" + path.read_text()).split("\n=== ")
    facts = dict(line.split(":", 1) for line in head.strip().splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    logs = tuple((part.partition("\n")[0], part.partition("\n")[2]) for part in parts)
    evidence = Evidence(logs, facts["state"], facts["exit"], facts["reason"])
    return Expected(facts["kind"], facts["line"], facts.get("traceback", ""), evidence)


def cause_of_text(text: str, state: str = "FAILED", exit_code: str = "1:0") -> Cause:
    return cause_of(Evidence((("7_0_log.err", text),), state, exit_code, ""))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_log_shows_its_cause(path):
    expected = expected_of(path)
    cause = cause_of(expected.evidence)
    assert cause.kind == expected.kind
    assert expected.line in cause.line
    assert expected.traceback in cause.traceback
    assert "\n" not in cause.line
    assert cause.kind == UNKNOWN or cause.remedy == REMEDIES[cause.kind]


def test_every_kind_has_a_log():
    assert {expected_of(path).kind for path in FILES} == {*REMEDIES, UNKNOWN}


def test_of_a_chain_of_exceptions_the_last_one_is_named_with_its_own_message():
    text = (
        "[rank0]: Traceback (most recent call last):\n"
        '[rank0]:   File "a.py", line 1, in read\n'
        "[rank0]: MemoryError\n\n"
        "[rank0]: During handling of the above exception, another exception occurred:\n\n"
        "[rank0]: Traceback (most recent call last):\n"
        '[rank0]:   File "a.py", line 3, in read\n'
        "[rank0]: KeyError: 'eye'\n"
    )
    cause = cause_of_text(text)
    assert (cause.kind, cause.line) == ("exception", "rank 0: KeyError: 'eye'")
    assert cause.traceback.startswith("Traceback (most recent call last):")
    assert "MemoryError" in cause.traceback
    assert "During handling of the above exception" in cause.traceback
    assert cause.traceback.endswith("KeyError: 'eye'")


def told(*errors: Exception, explicit: bool = False) -> str:
    """Return a chain of exceptions as Python prints it."""
    for before, after in pairwise(errors):
        after.__context__ = before
        if explicit:
            after.__cause__ = before
    for error in errors:
        try:
            raise error
        except Exception:
            continue  # it has its traceback now
    return "".join(traceback.format_exception(errors[-1]))


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("label", ["", "[rank0]: "])
@pytest.mark.parametrize(
    "inner",
    [
        MemoryError(),
        RuntimeError("Error(s) in loading:\n" + "\n".join(f"\tkey {i}" for i in range(40))),
        RuntimeError("CUDA error: unknown\n\nCompile with TORCH_USE_CUDA_DSA\n\n"),
        RuntimeError("Connection closed by peer"),
    ],
    ids=["short", "of many lines", "with blank lines", "lost"],
)
def test_the_last_of_a_chain_is_the_cause_whatever_the_messages_before_it(inner, label, explicit):
    shown = told(ZeroDivisionError(), inner, KeyError("eye"), explicit=explicit)
    text = "".join(f"{label}{line}\n" for line in shown.splitlines())
    cause = cause_of_text(f"{text}srun: error: node1: task 0: Exited with exit code 1\n")
    assert (cause.kind, cause.line) == ("exception", "rank 0: KeyError: 'eye'")
    assert "ZeroDivisionError" in cause.traceback


def test_what_can_only_follow_from_the_exception_before_it_is_not_the_cause():
    text = told(KeyError("eye"), RuntimeError("Connection reset by peer"))
    assert cause_of_text(text).line == "rank 0: KeyError: 'eye'"


def test_of_several_tracebacks_of_one_rank_the_last_is_the_cause():
    survived = told(MemoryError("a sample"))
    assert cause_of_text(survived + told(KeyError("eye"))).line == "rank 0: KeyError: 'eye'"


def test_a_line_that_begins_with_error_is_one_of_ours_only_behind_a_job_that_has_failed():
    line = "error: pathspec 'main' did not match\n"
    assert cause_of_text(line).kind == UNKNOWN
    failed = "submitit ERROR (2026-11-29 12:40:11,120) - Submitted job triggered an exception\n"
    assert cause_of_text(failed + "error: shards/a: no such directory\n").kind == "exception"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step 3/9 loss 1.0\n",
        # got over before the last step
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\nMemoryError\nstep 4/9\n',
        # a rank that left because another was gone, or srun ended it
        "srun: error: node1: task 1: Exited with exit code 1\nsrun: error: node1: task 0: Killed\n",
        "slurmstepd: error: *** STEP 3.0 ON node1 CANCELLED AT 2026-11-24T17:27:16 ***\n",
        # words of a cause that no one says of this job
        "note: out of memory, time limit and NaN are described in the docs\n",
        "Detected no damage in 8 shards\nloss_clip 0.3 is finite\n",
        "nvidia-smi: command not found\nstep 3/9 loss 1.0\n",  # a job that did without it
        "cat: notes.txt: No such file or directory\n",  # of a shell that went on
    ],
)
def test_where_no_cause_is_known_the_answer_is_unknown_and_names_the_file_to_read(text):
    cause = cause_of_text(text)
    assert (cause.kind, cause.traceback) == (UNKNOWN, "")
    assert "SLURM says FAILED 1:0" in cause.line
    assert cause.remedy == "read 7_0_log.err"
    assert text == "" or text.splitlines()[-1] in cause.line


def test_the_line_with_which_a_command_stops_is_the_cause_and_a_line_of_progress_is_not():
    assert cause_of_text("runs/a: holds another run\n", "FAILED", "2:0").kind == "exception"
    assert cause_of_text("step 3/9 loss 1.0\n", "FAILED", "2:0").kind == UNKNOWN
    local = cause_of_text("step 3/9 loss 1.0\na.pt: No space left on device; make room\n", "", "")
    assert local.kind == "disk full"


def of_a_process(text: str, *, is_noted: bool = True) -> Cause:
    logs = (("a-1.log", text),)
    return cause_of(Evidence(logs, "", "", "the process has ended", True, is_noted))


@pytest.mark.parametrize("text", ["", "step 3/9 loss 1.0\n", "reading shards\n"])
def test_a_cell_here_whose_end_no_one_noted_was_ended_with_its_launcher(text):
    cause = of_a_process(text)
    assert (cause.kind, cause.remedy) == (
        "killed", "give the same command again, or retry: it goes on",
    )  # fmt: skip
    assert "the launcher that ran it here ended without a word" in cause.line
    assert text.strip() in cause.line
    assert of_a_process(text + "ended with exit code 1\n").kind == UNKNOWN
    assert of_a_process(text, is_noted=False).kind == UNKNOWN  # a single run: no one notes its end


@pytest.mark.parametrize(
    "end",
    [
        "asked to stop with its launcher: ended by Signal 15 (SIGTERM)",
        "asked to stop with its launcher: ended by Signal 9 (SIGKILL)",
        "asked to stop with its launcher: ended with exit code 1",
        "ended by Signal 15 (SIGTERM)",
    ],
)
def test_a_cell_here_that_was_asked_to_leave_before_it_could_save_is_stopped(end):
    assert of_a_process(f"reading shards\n{end}\n").kind == "stopped"
    failed = f"Traceback (most recent call last):\n  File 'x'\nKeyError: 'eye'\n{end}\n"
    assert of_a_process(failed).kind == "exception"


def test_of_a_process_here_nothing_is_said_of_slurm_and_its_exit_code_counts():
    for text in ("", "reading shards\n", "reading shards\nended with exit code 1\n"):
        for is_noted in (True, False):
            cause = of_a_process(text, is_noted=is_noted)
            assert "SLURM" not in cause.line + cause.remedy
    assert of_a_process("reading shards\nended with exit code 1\n").line.endswith("reading shards")
    nothing = cause_of(Evidence((), "", "", "runs on other; ask there", True))
    assert nothing.line.startswith("not known: runs on other; ask there; there are no logs")
    assert "SLURM" not in nothing.line + nothing.remedy
    mistake = of_a_process("runs/a: holds another run\nended with exit code 2\n")
    assert (mistake.kind, mistake.line) == ("exception", "runs/a: holds another run")


def test_what_an_earlier_attempt_wrote_is_no_cause():
    out = "submitit INFO ({},1) - Starting with JobEnvironment(job_id=7, global_rank=0(1))\n"
    starts = "".join(out.format(f"2026-11-24 1{hour}:00:00") for hour in (7, 8))
    err = (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0\n"
        "submitit ERROR (2026-11-24 17:30:00,1) - Submitted job triggered an exception\n"
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\nMemoryError\n'
        "srun: error: node1: task 0: Exited with exit code 1\nno images in the folder\n"
    )
    logs = (("7_0_log.out", starts), ("7_0_log.err", err))
    cause = cause_of(Evidence(logs, "FAILED", "1:0", ""))
    assert cause.kind == UNKNOWN
    assert "no images in the folder" in cause.line
    only = out.format("2026-11-24 17:00:00")
    again = cause_of(Evidence((("7_0_log.out", only), logs[1]), "FAILED", "1:0", ""))
    assert again.kind == "host memory"


def test_the_messages_of_this_package_that_the_patterns_know_are_still_its_own():
    source = "".join(p.read_text() for p in PACKAGE.rglob("*.py") if p.name != "diagnosis.py")
    assert [words for words in OURS if words not in source] == []


def test_a_log_is_short_and_says_nothing_of_where_it_was_written():
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 60, path.name
        assert not {"/root/", "/work/"} & {text[i : i + 6] for i in range(len(text))}
        assert text.isascii()


def test_no_order_cut_or_mixture_of_logs_is_too_much_for_it():
    cases = [expected_of(path).evidence for path in FILES]
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
        words = [generator.choice(case)[:9] for case in (c[1:4] for c in chosen)]
        cause = cause_of(Evidence(logs, words[0], words[1], generator.choice(words)))
        assert cause.kind in (*REMEDIES, UNKNOWN)
        assert cause.line
        assert "\n" not in cause.line

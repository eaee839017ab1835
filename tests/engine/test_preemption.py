import os
import pty
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from maskedclip.engine.distributed import process_group
from maskedclip.engine.preemption import REQUEUE, STOP, Preempted, Preemption, gathered_with_request


@pytest.fixture
def received():
    """Count SIGUSR2 and SIGTERM, as a launcher's handlers would."""
    numbers: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: numbers.append(number))
        for number in (signal.SIGUSR2, signal.SIGTERM)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGUSR2, REQUEUE),
        (signal.SIGTERM, STOP),
        (signal.SIGINT, STOP),
        (signal.SIGHUP, STOP),
    ],
)
def test_a_signal_is_noted_and_does_nothing_else(number, expected):
    with suppress(Preempted), Preemption() as preemption:
        assert preemption.request == 0
        os.kill(os.getpid(), number)
        assert preemption.request == expected
        raise Preempted(Path("runs/a"), 7, preemption.request)


def test_of_two_signals_the_one_that_requeues_holds():
    with suppress(Preempted), Preemption() as preemption:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
            signal.raise_signal(number)
        assert preemption.request == REQUEUE
        raise Preempted(Path("runs/a"), 7, preemption.request)


def test_previous_handlers_are_restored_and_receive_nothing_of_a_signal_that_was_obeyed(received):
    before = signal.getsignal(signal.SIGTERM)
    with suppress(Preempted), Preemption():
        signal.raise_signal(signal.SIGTERM)
        raise Preempted(Path("runs/a"), 7, STOP)
    assert signal.getsignal(signal.SIGTERM) is before
    assert received == []


def test_a_run_that_leaves_to_be_queued_again_is_broken_off_by_no_further_signal(received):
    try:
        with Preemption():
            raise Preempted(Path("runs/a"), 7, REQUEUE)
    except Preempted:  # where the ranks leave together, and rank 0 asks SLURM
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.raise_signal(number)
        # nor is what it starts for that
        ignored = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True)
        mask = int(ignored.stdout.split()[1], 16)
        assert all(mask >> number - 1 & 1 for number in (signal.SIGUSR2, signal.SIGTERM))
    assert received == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_came_too_late_to_be_obeyed_goes_to_the_previous_handlers(received):
    with Preemption():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
    assert received == [signal.SIGUSR2]


def test_a_second_ctrl_c_interrupts_at_once():
    def block() -> None:
        with Preemption():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        block()


def test_under_nohup_a_closed_terminal_means_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            signal.raise_signal(signal.SIGHUP)
            assert preemption.request == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_terminal_is_closed_writes_on_and_saves():
    process, terminal = pty.fork()
    if process == 0:
        code = 1
        signal.alarm(30)
        try:
            with Preemption() as preemption:
                os.write(2, b"ready")
                while not preemption.request:
                    time.sleep(0.01)
                os.write(2, b"a line of progress")  # EIO, if it went to the terminal
                raise Preempted(Path("runs/a"), 7, preemption.request)
        except Preempted:
            code = 0
        finally:
            os._exit(code)
    assert os.read(terminal, 5) == b"ready"
    os.close(terminal)
    assert os.waitpid(process, 0)[1] == 0


def test_another_thread_than_the_main_one_receives_nothing(received):
    def block() -> None:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGUSR2)
            expected.append(preemption.request)

    expected: list[int] = []
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert expected == [0]
    assert received == [signal.SIGUSR2]


def test_the_message_names_the_run_and_the_step_and_says_how_it_goes_on():
    message = str(Preempted(Path("runs/a"), 7, STOP))
    assert message == "runs/a: asked to stop; step 7 is saved, and the same command goes on from it"


@pytest.mark.parametrize("lines", [[], ["[1, 2]"], ["[1, 2]", "[3]"]])
@pytest.mark.parametrize("expected", [0, STOP, REQUEUE])
def test_a_request_travels_beside_the_lines(lines, expected):
    with process_group():
        assert gathered_with_request(lines, expected) == (lines, expected)

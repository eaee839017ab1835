import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from maskedclip.engine.distributed import process_group
from maskedclip.engine.preemption import REQUEUE, STOP, Preempted, Preemption, gathered_with_request


@pytest.fixture
def heard():
    """Let SIGUSR2 and SIGTERM be counted, as a launcher's handlers would."""
    numbers: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: numbers.append(number))
        for number in (signal.SIGUSR2, signal.SIGTERM)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "asked"),
    [(signal.SIGUSR2, REQUEUE), (signal.SIGTERM, STOP), (signal.SIGINT, STOP)],
)
def test_a_signal_is_noted_and_does_nothing_else(number, asked):
    with suppress(Preempted), Preemption() as preemption:
        assert preemption.request == 0
        os.kill(os.getpid(), number)
        assert preemption.request == asked
        raise Preempted(Path("runs/a"), 7, preemption.request)


def test_of_two_signals_the_one_that_wants_to_go_on_holds():
    with suppress(Preempted), Preemption() as preemption:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
            signal.raise_signal(number)
        assert preemption.request == REQUEUE
        raise Preempted(Path("runs/a"), 7, preemption.request)


def test_the_handlers_from_before_stand_again_and_hear_nothing_of_what_was_obeyed(heard):
    before = signal.getsignal(signal.SIGUSR2)
    with suppress(Preempted), Preemption():
        signal.raise_signal(signal.SIGUSR2)
        raise Preempted(Path("runs/a"), 7, REQUEUE)
    assert signal.getsignal(signal.SIGUSR2) is before
    assert heard == []


def test_what_came_too_late_to_be_obeyed_goes_to_the_handlers_from_before(heard):
    with Preemption():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
    assert heard == [signal.SIGUSR2]


def test_a_second_ctrl_c_interrupts_at_once():
    def block() -> None:
        with Preemption():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        block()


def test_another_thread_than_the_main_one_hears_nothing(heard):
    def block() -> None:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGUSR2)
            asked.append(preemption.request)

    asked: list[int] = []
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert asked == [0]
    assert heard == [signal.SIGUSR2]


def test_the_message_names_the_run_and_the_step_and_says_how_it_goes_on():
    said = str(Preempted(Path("runs/a"), 7, STOP))
    assert said == "runs/a: asked to stop; step 7 is saved, and the same command goes on from it"


@pytest.mark.parametrize("lines", [[], ["[1, 2]"], ["[1, 2]", "[3]"]])
@pytest.mark.parametrize("asked", [0, STOP, REQUEUE])
def test_what_is_asked_travels_beside_the_lines(lines, asked):
    with process_group():
        assert gathered_with_request(lines, asked) == (lines, asked)

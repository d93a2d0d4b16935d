"""What Ctrl-C and SIGTERM do to a sweep, without one: the main thread waits here as it does for trials."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from analysis.schema import INTERRUPTED, TERMINATED
from sweeps.tune.interrupts import GraceOverError, Interrupts, TerminatedError

PATIENCE = 60.0


def soon(*numbers: int) -> None:
    """Send signals to this process from another thread, right after each other."""

    def send() -> None:
        time.sleep(0.1)
        for number in numbers:
            os.kill(os.getpid(), number)

    threading.Thread(target=send).start()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_once_lets_trials_end() -> None:
    asked: list[str] = []
    with Interrupts(PATIENCE) as interrupts:
        with interrupts.trials(asked.append):
            soon(signal.SIGINT)
            until(lambda: asked)
            time.sleep(0.1)
        assert asked == [INTERRUPTED] and not interrupts.terminated


@pytest.mark.parametrize("first", ["INT", "TERM"])
def test_two_signals_are_two_while_the_main_thread_is_in_a_library(first: str) -> None:
    asked: list[str] = []
    sender = f"sleep 0.2; kill -{first} {os.getpid()}; sleep 0.3; kill -INT {os.getpid()}"
    with Interrupts(PATIENCE) as interrupts:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt), interrupts.trials(asked.append), subprocess.Popen(["sh", "-c", sender]):
            sum(range(50_000_000))  # a second in which no handler of Python's is called
            time.sleep(PATIENCE)
        assert len(asked) == 1 and time.monotonic() - began < PATIENCE


def test_ctrl_c_while_no_trials_run_stops_at_once() -> None:
    with Interrupts(PATIENCE) as interrupts:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                soon(signal.SIGINT)
                time.sleep(PATIENCE)
            interrupts.finish()


def test_a_signal_during_a_destructor_comes_out_behind_it() -> None:
    """Python prints what a destructor raises, and goes on: the interrupt would be lost."""

    class Slow:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # the handler has been called by now
            ended.append(True)

    ended: list[bool] = []
    with Interrupts(PATIENCE), pytest.raises(KeyboardInterrupt):
        Slow()
        time.sleep(PATIENCE)
    assert ended


def test_a_main_thread_that_misses_its_signal_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it comes right before the call in which the main thread then waits."""
    true, sent = signal.pthread_kill, []

    def lose_the_first(thread: int, number: int) -> None:
        sent.append(number)
        if len(sent) > 1:
            true(thread, number)

    monkeypatch.setattr(signal, "pthread_kill", lose_the_first)
    with Interrupts(0.1) as interrupts:
        with pytest.raises(GraceOverError), interrupts.trials(lambda reason: None):
            soon(signal.SIGTERM)
            time.sleep(PATIENCE)
        assert len(sent) == 2


def test_sigterm_leaves_trials_their_grace() -> None:
    asked: list[str] = []
    hurried: list[bool] = []
    with Interrupts(0.3) as interrupts:
        interrupts.on_termination(lambda: hurried.append(True))
        with pytest.raises(GraceOverError), interrupts.trials(asked.append):
            soon(signal.SIGTERM, signal.SIGTERM)
            until(lambda: asked)
            began = time.monotonic()
            time.sleep(PATIENCE)
        assert 0.1 < time.monotonic() - began < PATIENCE
        os.kill(os.getpid(), signal.SIGTERM)  # while the report is written
        time.sleep(0.1)
        assert interrupts.terminated and asked == [TERMINATED] and hurried == [True]


def test_trials_that_end_within_the_grace_are_whole() -> None:
    with Interrupts(0.2) as interrupts:
        with interrupts.trials(lambda reason: None):
            soon(signal.SIGTERM)
            until(lambda: interrupts.terminated)
        time.sleep(0.4)  # the report takes longer than what was left
        assert interrupts.terminated


def test_sigterm_before_any_trial_ends_the_sweep() -> None:
    with pytest.raises(TerminatedError), Interrupts(PATIENCE):
        soon(signal.SIGTERM)
        time.sleep(PATIENCE)


def test_a_disk_that_is_full_keeps_no_sweep_from_ending() -> None:
    def ask(reason: str) -> None:
        raise OSError("full")

    with Interrupts(0.1) as interrupts, pytest.raises(GraceOverError), interrupts.trials(ask):
        soon(signal.SIGTERM)
        time.sleep(PATIENCE)


def test_handlers_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()
    with Interrupts(PATIENCE):
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1 and threading.active_count() == threads


def test_in_another_thread_nothing_is_changed() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interrupts(PATIENCE) as interrupts, interrupts.trials(seen.append):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mien.training.stopping import stop_signals

FOLDER = Path("outputs/some-run")


def heard(stop: threading.Event) -> bool:
    deadline = time.monotonic() + 5
    while not stop.is_set() and time.monotonic() < deadline:
        time.sleep(0.001)
    return stop.is_set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_only_heard_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals(FOLDER) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert heard(stop)
    assert signal.getsignal(number) is before


def test_the_second_stops_at_once_and_says_how_to_go_on() -> None:
    before = signal.getsignal(signal.SIGINT)
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt, match=r"mien train --resume outputs.some-run"),
        stop_signals(FOLDER) as stop,
    ):
        os.kill(os.getpid(), signal.SIGINT)
        assert heard(stop)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[bool] = []

    def work() -> None:
        with stop_signals(FOLDER) as stop:
            seen.append(stop.is_set())
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]

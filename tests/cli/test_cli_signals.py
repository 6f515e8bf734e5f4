from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from mien.cli.signals import interruptible
from waiting import PATIENCE_S, until

pytest.importorskip("av")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")

_WAITING = """
import os, sys, time
import av
from mien.core.errors import EXIT_INTERRUPTED
from mien.cli.signals import interruptible
try:
    with interruptible({grace_period_s}) as stop:
        print("ready", flush=True)
        {waits}
except KeyboardInterrupt:
    os._exit(3)
"""
# FFmpeg retries after a signal, so that Python never handles it: the grace period decides.
_IN_A_LIBRARY = 'av.open("file:" + sys.argv[1])'
_IN_PYTHON = "time.sleep(1000)"
_LOST = """try:
            time.sleep(1000)
        except KeyboardInterrupt:
            stop.check()"""


def is_read(pipe: Path, stack: ExitStack) -> bool:
    """Return True once a pipe has a reader, whom it then keeps waiting."""
    with suppress(OSError):
        stack.callback(os.close, os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("waits", "grace_period_s", "code"),
    [(_IN_A_LIBRARY, 0.3, 130), (_IN_PYTHON, PATIENCE_S, 3), (_LOST, PATIENCE_S, 3)],
    ids=["library", "python", "lost"],
)
def test_a_signal_ends_the_process_in_time(
    tmp_path: Path, waits: str, grace_period_s: float, code: int, number: signal.Signals
) -> None:
    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    program = _WAITING.format(waits=waits, grace_period_s=grace_period_s)
    arguments = [sys.executable, "-c", program, str(pipe)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with ExitStack() as stack:
            if waits == _IN_A_LIBRARY:
                until(lambda: is_read(pipe, stack))
            process.send_signal(number)
            _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    assert err == (b"mien: interrupted\n" if code == 130 else b"")


@pytest.fixture
def free_signals() -> Iterator[None]:
    """Reset SIGTERM, for which Ray leaves a handler if an earlier test used it."""
    kept = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, kept)


@pytest.mark.usefixtures("free_signals")
def test_handlers_are_restored() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), interruptible(60.0):
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_are_not_handled_in_other_threads() -> None:
    handler = signal.getsignal(signal.SIGINT)

    def use() -> None:
        with interruptible(60.0) as stop:
            stop.check()
            assert signal.getsignal(signal.SIGINT) is handler

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


# final=True


def ran(code: str) -> subprocess.CompletedProcess[str]:
    head = (
        "import os, signal, sys, time\n"
        "from mien.cli.signals import interruptible\n"
        "def send(name): os.kill(os.getpid(), getattr(signal, name)); time.sleep(0.02)\n"
    )
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_interrupts_once(name: str) -> None:
    code = f"""
try:
    with interruptible(60.0, final=True):
        try:
            send({name!r})
        finally:
            send("SIGINT"), send("SIGTERM"), send("SIGHUP")
            print("tidied up")
except KeyboardInterrupt:
    send("SIGINT")
    print("interrupted")
"""
    outcome = ran(code)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == "tidied up\ninterrupted\n"


def test_slow_cleanup_is_ended() -> None:
    code = """
try:
    with interruptible(0.1, final=True):
        send("SIGINT")
finally:
    time.sleep(1000)
"""
    assert ran(code).returncode == 130


def test_ignored_signals_stay_ignored_and_others_are_restored() -> None:
    code = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with interruptible(60.0, final=True):
    send("SIGHUP")
assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    outcome = ran(code)
    assert (outcome.returncode, outcome.stderr) == (0, "")

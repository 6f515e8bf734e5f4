from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from mien.core.forks import ForkLock

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def test_one_at_a_time() -> None:
    lock, inside, most = ForkLock(), [0], [0]

    def work() -> None:
        for _ in range(200):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@forks
def test_a_child_finds_it_free_though_another_thread_holds_it() -> None:
    program = (
        "import os, threading\n"
        "from mien.core.forks import ForkLock\n"
        "lock, held, done = ForkLock(), threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with lock:\n"
        "        held.set()\n"
        "        done.wait()\n"
        "thread = threading.Thread(target=hold)\n"
        "thread.start()\n"
        "held.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    with lock:\n"
        "        os._exit(7)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "done.set()\n"
        "thread.join()\n"
        "print(code)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]  # Python warns of forks with threads
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "7\n"

"""The client alone; what it refuses is in `test_remote`, through which all of it goes."""

from __future__ import annotations

import threading
import time

import pytest

from mien.core.errors import InputError
from mien.core.web_address import BarredAddress, parse_web_address
from mien.core.web_client import Asking, Cancelled, Deadline, asked
from web_maker import reply, serving

ASKING = Asking("*/*", "not in time", allow_private=True)


def test_a_deadline_passes_unless_it_is_put_off() -> None:
    now = [5.0]
    deadline = Deadline(2.0, clock=lambda: now[0])
    assert deadline.left() == 2.0
    now[0] = 6.5
    deadline.restart(1.0)
    now[0] = 7.25
    assert deadline.left() == 0.25
    now[0] = 7.5
    with pytest.raises(TimeoutError):
        deadline.left()


def test_a_reply_tells_who_gave_it_and_more_headers_are_sent() -> None:
    answers = {"/a": reply(b"", "Location: /b", status="302 Found"), "/b": reply(b"here")}
    with serving(answers) as server:
        found = asked(
            parse_web_address(server.url("/a")), ASKING, Deadline(5), {"Range": "bytes=3-"}
        )
        assert found.address.shown == server.url("/b")
        assert found.head.read() == b"here"
        found.close()
        assert all(b"Range: bytes=3-\r\n" in request for request in server.requests)


def test_private_hosts_are_barred_and_said_to_be() -> None:
    with pytest.raises(BarredAddress, match="--allow-private"):
        asked(parse_web_address("http://127.0.0.1:9/"), Asking("*/*", ""), Deadline(5))


def test_waiting_can_be_given_up_from_another_thread() -> None:
    deadline = Deadline(30.0)
    with serving({"/slow": lambda *_: time.sleep(2)}) as server:
        timer = threading.Timer(0.1, deadline.cancel)
        timer.start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            asked(parse_web_address(server.url("/slow")), ASKING, deadline)
        assert time.monotonic() - began < 1.5
        timer.join()


def test_a_login_comes_back_in_full_and_never_where_it_is_shown() -> None:
    address = parse_web_address("https://me%40home:a%2Fb@faces.example:81/x?y=1")
    assert address.full == "https://me%40home:a%2Fb@faces.example:81/x?y=1"
    assert parse_web_address(address.full) == address
    assert "home" not in address.shown
    with pytest.raises(InputError):
        parse_web_address("http://:80/")

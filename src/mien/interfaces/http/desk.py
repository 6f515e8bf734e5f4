"""Work in few threads, and only so much of it at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect

from mien.interfaces.http.refusal import Refusal

_T = TypeVar("_T")


class Desk:
    """Threads that work, and places for who is served or waits; used from one event loop alone."""

    def __init__(self, workers: int, waiting: int) -> None:
        """Make it.

        Args:
            workers: threads.
            waiting: places beside theirs.
        """
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="mien")
        self._places = workers + waiting
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            Refusal: if all are taken.
        """
        if self._taken >= self._places:
            raise Refusal(
                503, f"busy: {self._places} images are being read or wait; try again in a moment"
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def work(self, job: Callable[[], _T], gone: Callable[[], Awaitable[object]]) -> _T:
        """Do a job in a thread.

        Where the client goes away, a job that has not begun is dropped; one that has is waited for,
        so that its place is free no sooner than its thread.

        Args:
            job: what is to be done.
            gone: returns when the client has gone away.

        Raises:
            ClientDisconnect: if the client has gone away.
        """
        future = self._threads.submit(job)
        done = asyncio.wrap_future(future)
        watch: asyncio.Future[object] = asyncio.ensure_future(gone())
        try:
            await asyncio.wait((done, watch), return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            if not future.cancel():
                await asyncio.wait({done})
                done.exception()  # nobody is left who wants to know
            raise ClientDisconnect
        except asyncio.CancelledError:
            future.cancel()
            raise
        finally:
            watch.cancel()

    async def alone(self, job: Callable[[], _T]) -> _T:
        """Do a job of the service's own in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, job)

    def close(self) -> None:
        """Drop what has not begun, and wait for the rest."""
        self._threads.shutdown(wait=True, cancel_futures=True)

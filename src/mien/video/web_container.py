"""Opens videos of http(s) whose hosts nobody vouches for: FFmpeg makes no connection by itself."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from mien.core.errors import InputError
from mien.core.web_address import shown_address
from mien.core.web_client import Deadline
from mien.video.extra import load_av
from mien.video.web_files import WebFiles

# Formats that hold their pictures themselves, and HLS, whose entries come by way of `WebFiles`.
# Others (concat, dash, sdp, ...) open what they name behind its back.
_FORMATS = (
    "asf,avi,flv,gif,h264,hevc,hls,ivf,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mxf,nut,ogg,"
    "webm,wtv"
)
_OPTIONS = {
    "format_whitelist": _FORMATS,
    # There is no such protocol: whatever FFmpeg wants to open by itself is refused.
    "protocol_whitelist": "none",
    # FFmpeg's ways of keeping a connection take for granted that it is one of its own.
    "http_persistent": "0",
    "http_multiple": "0",
}
_SEEK_TIMEOUT_S = 60.0

_Result = TypeVar("_Result")


class LostVideo(OSError):
    """What a video's address leads to could not be read; the message is a line of its own."""


class SilentVideo(LostVideo):
    """Nothing came any more."""


class BarredVideo(LostVideo):
    """A video leads on to where it must not."""


class WebContainer:
    """An open container, read on a thread of its own.

    PyAV loses a Ctrl-C that comes while FFmpeg calls back; on another thread none comes. Who waits
    here gets it at once.
    """

    def __init__(
        self, container: Any, files: WebFiles, thread: ThreadPoolExecutor, timeout_s: float
    ) -> None:
        """Take what `web_opened` opened; each packet must come within ``timeout_s``."""
        self._container, self._files, self._thread = container, files, thread
        self._timeout_s = timeout_s

    def __getattr__(self, name: str) -> Any:
        """Return what the container itself has."""
        return getattr(self._container, name)

    @property
    def size(self) -> int:
        """Return the bytes of it, -1 where nobody knows."""
        return -1 if self._files.size is None else self._files.size

    def demux(self, *streams: Any) -> Iterator[Any]:
        """Yield packets as PyAV's does.

        Raises:
            LostVideo: where a file cannot be read to its end.
        """
        packets = self._container.demux(*streams)
        while True:
            packet = self._done(lambda: next(packets, None), self._timeout_s)
            is_end = packet is None or (packet.size == 0 and packet.dts is None)
            if self._files.is_barred or (is_end and self._files.problem is not None):
                raise self._lost()
            if packet is None:
                return
            yield packet

    def decode(self, *streams: Any) -> Iterator[Any]:
        """Yield frames as PyAV's does; raises as `demux`."""
        for packet in self.demux(*streams):
            yield from packet.decode()

    def seek(self, offset: int, **options: Any) -> None:
        """Jump as PyAV's does; raises LostVideo where that cannot be read."""
        self._files.forgive()
        self._done(lambda: self._container.seek(offset, **options), _SEEK_TIMEOUT_S)

    def _done(self, work: Callable[[], _Result], timeout_s: float) -> _Result:
        self._files.deadline.restart(timeout_s)
        try:
            return self._thread.submit(work).result()
        except (load_av().error.FFmpegError, OSError) as error:
            if self._files.problem is None:
                raise
            raise self._lost() from error

    def _lost(self) -> Exception:
        """Return what says why nothing more comes."""
        problem = self._files.problem
        if not isinstance(problem, InputError):
            return problem or LostVideo("nothing more came")
        if self._files.is_barred:
            return BarredVideo(str(problem))
        is_silent = isinstance(problem.__cause__, TimeoutError)
        return (SilentVideo if is_silent else LostVideo)(str(problem))


@contextmanager
def web_opened(address: str, *, open_s: float, read_s: float) -> Iterator[WebContainer]:
    """Open a video of http(s) by checked connections to the open internet alone.

    Args:
        address: of the video, or of a playlist (HLS) whose every entry is checked as well.
        open_s: seconds in which it must show that it is a video.
        read_s: seconds in which each further packet must come.

    Raises:
        InputError: if it, or what it leads on to, cannot be had or may not be asked for.
        av.error.FFmpegError: if it is not a video.
    """
    av = load_av()
    deadline = Deadline(open_s)
    timeout = (open_s, read_s)
    files = WebFiles(shown_address(address), deadline, f"no video came within {open_s:g} s")
    thread = ThreadPoolExecutor(1, "mien-web")

    def opened() -> Any:
        form = "hls" if files.ask_first(address) else None
        return av.open(address, format=form, io_open=files, options=_OPTIONS, timeout=timeout)

    container: Any = None
    try:
        try:
            container = thread.submit(opened).result()
        except (av.error.FFmpegError, OSError, UnicodeError) as error:
            raise files.problem or _refused(files.name, error) from error
        if files.problem is not None:
            raise files.problem
        files.late = f"nothing came for {read_s:g} s"
        yield WebContainer(container, files, thread, read_s)
    finally:
        # Closed by the thread that reads, when it has left what it may be reading.
        deadline.cancel()
        if container is not None:
            thread.submit(container.close)
        closed = thread.submit(files.close)
        thread.shutdown(wait=False)
        closed.result()


def _refused(name: str, error: Exception) -> Exception:
    """Return what says that a format is none of those that are let in, where it was that."""
    if getattr(error, "errno", None) != errno.EINVAL:
        return error
    return InputError(
        f"{name}: of a kind that may lead on to other files: --allow-private lets FFmpeg open it, "
        "wherever they lie"
    )

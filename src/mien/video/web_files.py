"""The files of a video on the web, as FFmpeg asks for them: each by our own checked connection."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from http import HTTPStatus

from mien.core.errors import InputError
from mien.core.web_address import BarredAddress, is_web_address, parse_web_address
from mien.core.web_client import Asking, Cancelled, Deadline, Reply, asked, in_a_line, status_text
from mien.video.playlists import MAX_BYTES, START, barred_protocol, checked_playlist

_ACCEPT = "video/*,*/*;q=0.5"
_READ_BYTES = 65_536
# Reading on over so many bytes is quicker than another connection.
_SKIP_BYTES = 262_144
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class WebFiles:
    """Opens what FFmpeg asks for in the course of one video; give it to ``av.open`` as ``io_open``.

    Nothing is raised into FFmpeg: PyAV keeps one exception at a time and prints the others. What
    fails ends as an empty file does, and `problem` tells why.

    Attributes:
        name: the video's address, as it may be shown.
        problem: the last thing that failed, or None; a host that may not be asked stays.
        size: bytes of the file that was asked for first, or None if nobody knows.
        deadline: until when all reading must be done; whoever reads puts it off.
        late: what to say after it.
    """

    def __init__(self, name: str, deadline: Deadline, late: str) -> None:
        """Open files for the video at the address ``name``, as it may be shown."""
        self.problem: Exception | None = None
        self.size: int | None = None
        self.deadline = deadline
        self.late = late
        self.name = name
        self._first: WebFile | io.BytesIO | None = None
        self._held: set[WebFile] = set()

    @property
    def is_barred(self) -> bool:
        """Say whether the video led to where it must not: nothing more is read then."""
        return isinstance(self.problem, BarredAddress)

    def __call__(self, url: str, _: int, options: Mapping[str, str]) -> WebFile | io.BytesIO:
        """Open a file for reading; an empty one if that may not be or cannot be."""
        first, self._first = self._first, None
        try:
            return first or self._opened(url, options)
        except Exception as error:  # raised anew by who reads the video
            self.note(error)
            return io.BytesIO()

    def ask_first(self, url: str) -> bool:
        """Open the video itself, which FFmpeg gets when it asks for its first file.

        Returns:
            Whether it is a playlist. FFmpeg goes by the address's ending or the kind that the
            server names, of which it hears nothing here.

        Raises:
            InputError: if it cannot be had or may not be asked for.
        """
        self._first = file = self._opened(url, {})
        self.size = file.size if isinstance(file, WebFile) else len(file.getbuffer())
        return not isinstance(file, WebFile)

    def forgive(self) -> None:
        """Try again what failed, where that was not barred."""
        if not self.is_barred:
            self.problem = None
            for file in self._held:
                file.is_lost = False

    def let_go(self, file: WebFile) -> None:
        """Forget a file, which is closed."""
        self._held.discard(file)

    def close(self) -> None:
        """End all connections; FFmpeg leaves some open, the first file's among them."""
        for file in list(self._held):
            file.close()

    def note(self, problem: Exception) -> None:
        """Keep what failed."""
        if not (self.is_barred or isinstance(problem, Cancelled)):
            self.problem = problem

    def _opened(self, url: str, options: Mapping[str, str]) -> WebFile | io.BytesIO:
        if self.is_barred:
            return io.BytesIO()
        if not is_web_address(url):
            raise barred_protocol(self.name, url)
        first = int(options.get("offset", 0))
        end = int(options["end_offset"]) if "end_offset" in options else None
        file = WebFile(self, url, first, end)
        self._held.add(file)
        if first or not file.begins_with(START):
            return file
        try:
            return io.BytesIO(checked_playlist(file.whole(MAX_BYTES), file.address))
        finally:
            file.close()


class WebFile:
    """A file behind an address, read as it comes; where the server allows it, from anywhere in it.

    Attributes:
        address: where it lies, after redirects.
        size: its bytes, or None if nobody knows.
        is_lost: whether reading failed: there is nothing more then, so that nobody waits again.
    """

    def __init__(self, files: WebFiles, url: str, first: int = 0, end: int | None = None) -> None:
        """Open the bytes from ``first`` on, up to and without ``end``; raises InputError."""
        self.address = parse_web_address(url)
        self.size: int | None = None
        self.is_lost = False
        self._files, self._first, self._end = files, first, end
        self._ahead = b""
        self._wanted = 0  # where the next read begins, counted from `first`
        self._at = 0  # where the reply stands
        self._asked_at = 0  # and where it began
        self._reply: Reply | None = None
        self._reply_end: int | None = None
        self._is_ranged = False
        try:
            self._ask(0)
        except BaseException:
            self._hang_up()
            raise

    # What PyAV calls ------------------------------------------------------
    def read(self, size: int) -> bytes:
        """Return the next bytes, some of them at least; none at the end, or where it fails."""
        try:
            return self._read(size)
        except Exception as error:  # raised anew by who reads the video
            self._files.note(error)
            self.is_lost = True
            return b""

    def seekable(self) -> bool:
        """Say whether reading can go on from anywhere."""
        return self._is_ranged

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read on from there; nothing is asked for before something is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._wanted}.get(whence, self.size or 0)
        if base + offset < 0:
            return -1  # FFmpeg's way of an error
        self._wanted = base + offset
        return self._wanted

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._wanted

    def close(self) -> None:
        """End the connection; nothing is read any more."""
        self._hang_up()
        self._files.let_go(self)

    # ----------------------------------------------------------------------
    def begins_with(self, start: bytes) -> bool:
        """Say whether these are its first bytes; they are still read after it."""
        while len(self._ahead) < len(start) and start.startswith(self._ahead):
            piece = self._piece(len(start) - len(self._ahead))
            if not piece:
                break
            self._ahead += piece
        return self._ahead == start

    def whole(self, most: int) -> bytes:
        """Return all of it, from the start; raises InputError if that is more than so much."""
        content = bytearray()
        while piece := self._read(_READ_BYTES):
            content += piece
            if len(content) > most:
                raise InputError(
                    f"{self.address.shown}: expected a playlist of at most {most / 1e6:g} MB"
                )
        return bytes(content)

    def _hang_up(self) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.close()

    def _read(self, size: int) -> bytes:
        if self.size is not None:
            size = min(size, self.size - self._wanted)
        if size <= 0 or self.is_lost or self._files.is_barred:
            return b""
        if self._wanted < len(self._ahead):
            piece = self._ahead[self._wanted : self._wanted + size]
        else:
            self._reach(self._wanted)
            piece = self._piece(size)
        self._wanted += len(piece)
        return piece

    def _piece(self, size: int) -> bytes:
        """Return what comes next from the server; nothing at the file's end."""
        if self._reply is None or self._at == self._reply_end:
            if not self._is_ranged or self._at == self.size:
                return b""
            self._ask(self._at)  # some servers give a part at a time
        assert self._reply is not None
        with in_a_line(self.address, self._files.late):
            piece = self._reply.head.read1(size)
        self._at += len(piece)
        if piece or self.size is None or self._at >= self.size:
            return piece
        self._hang_up()
        if self._is_ranged and self._at > self._asked_at:
            return self._piece(size)  # servers end what is read too slowly: it goes on from here
        read = f"{self._at} of {self.size} bytes"
        raise InputError(f"{self.address.shown} broke off after {read}")

    def _reach(self, place: int) -> None:
        """Have the reply stand at a place in the file."""
        if self._is_ranged and not 0 <= place - self._at <= _SKIP_BYTES:
            self._ask(place)
        while self._at < place and self._piece(min(place - self._at, _READ_BYTES)):
            pass

    def _ask(self, place: int) -> None:
        """Ask for the file from a place on."""
        self._hang_up()
        first = self._first + place
        last = "" if self._end is None else str(self._end - 1)
        asking = Asking(_ACCEPT, self._files.late)
        wanted = {"Range": f"bytes={first}-{last}"}
        reply = asked(self.address, asking, self._files.deadline, wanted)
        self._reply, self.address = reply, reply.address
        name, head = reply.address.shown, reply.head
        if head.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise InputError(f"{name}: the server answered {status_text(head.status)}")
        if (head.getheader("Content-Encoding") or "identity").lower() != "identity":
            raise InputError(f"{name}: the server packs the video: expected it as it is")
        if head.status == HTTPStatus.OK and place:
            raise InputError(f"{name}: the server does not go on from the middle any more")
        self._at = self._asked_at = place
        if head.status == HTTPStatus.OK:
            self._take_all(head.length)
        else:
            self._take_part(head.getheader("Content-Range") or "", first)

    def _take_all(self, length: int | None) -> None:
        """Take a reply of the whole file, which begins before what is wanted of it."""
        self._is_ranged, self._reply_end = False, None
        self._at = -self._first
        end = length if self._end is None else min(self._end, length or self._end)
        self.size = None if end is None else max(0, end - self._first)
        while self._at < 0 and self._piece(min(-self._at, _READ_BYTES)):
            pass

    def _take_part(self, written: str, first: int) -> None:
        """Take a reply of a part, whose place its header tells."""
        found = _RANGE.fullmatch(written.strip())
        if found is None or int(found[1]) != first:
            raise InputError(f"{self.address.shown}: the server sent another part than asked for")
        total = int(found[3])
        size = (total if self._end is None else min(self._end, total)) - self._first
        if self.size is not None and size != self.size:
            raise InputError(f"{self.address.shown}: the file changed while it was read")
        self._is_ranged, self.size = True, size
        self._reply_end = int(found[2]) + 1 - self._first

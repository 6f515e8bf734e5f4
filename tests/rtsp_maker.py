"""A small RTSP server on loopback: one clip, sent over the connection it was asked for on."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from connection_maker import serving_connections

_PAYLOAD = 96
_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=clip\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    "a=control:track\r\n"
)
_MORE = {
    "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n",
    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
    "PLAY": "Session: 1\r\n",
}


def rtp_packets(content: bytes) -> list[bytes]:
    """Return a clip's pictures (an MPEG transport stream, H.264) as RTP packets."""
    import av

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        address = f"rtp://127.0.0.1:{receiver.getsockname()[1]}"
        packets: list[bytes] = []
        source: Any = av.open(io.BytesIO(content))
        target: Any = av.open(address, "w", format="rtp")
        with source, target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is None:
                    continue
                packet.stream = stream
                target.mux(packet)
                packets += _received(receiver)
        packets += _received(receiver)
    # What else comes is RTCP.
    return [packet for packet in packets if packet[1] & 0x7F == _PAYLOAD]


def _received(receiver: socket.socket) -> Iterator[bytes]:
    with suppress(BlockingIOError):
        while True:
            yield receiver.recv(1 << 16)


@contextmanager
def serving_rtsp(*clips: list[bytes]) -> Iterator[tuple[str, list[int]]]:
    """Serve a clip's RTP packets a connection, then nothing.

    Gives the address, and a list that grows with each connection. A connection is cut after its
    clip.
    """
    left = list(clips)

    def answer(client: socket.socket) -> None:
        with suppress(OSError):
            if left and _answered(client):
                for packet in left.pop(0):
                    client.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
                    time.sleep(0.001)

    with serving_connections(answer) as (port, connections):
        yield f"rtsp://user:secret@127.0.0.1:{port}/live", connections


def _answered(client: socket.socket) -> bool:
    """Answer requests up to PLAY; false where the other side leaves before."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            more = client.recv(4096)
            if not more:
                return False
            received += more
        head, _, received = received.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        method = lines[0].split()[0]
        number = next(line for line in lines if line.lower().startswith("cseq"))
        body = _SDP if method == "DESCRIBE" else ""
        kind = "Content-Type: application/sdp\r\n" if body else ""
        length = f"{kind}Content-Length: {len(body)}\r\n" if body else ""
        answer = f"RTSP/1.0 200 OK\r\n{number}\r\n{_MORE.get(method, '')}{length}\r\n{body}"
        client.sendall(answer.encode())
        if method == "PLAY":
            return True

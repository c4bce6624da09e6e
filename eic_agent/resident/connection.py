"""One client's connection, as the agent sees it: who it is, what it asks, what it is told.

The other end of the wire that client.py describes.
"""

import contextlib
import math
import os
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from eic_agent import client

# Requests of one field: for the status, answered in JSON; and the news that a client fell back.
STATUS_PROTOCOL = b"EIC1-STATUS"
FELL_BACK_PROTOCOL = b"EIC1-FELL-BACK"

_NUMBER = re.compile(rb"[0-9]{1,10}")
_PEER_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED
_REQUEST_LENGTH = struct.Struct(">H")
_REPLY_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Request:
    """One lookup as a client asks for it; times are on the monotonic clock."""

    user: str  # undecodable bytes as surrogates, as os.fsdecode gives them
    fingerprint: str | None
    sshd_pid: int | None
    arrived: float
    ends: float


@dataclass(frozen=True, slots=True)
class Reply:
    """Lines for sshd, or, where nothing could be decided, one line of why; without line ends."""

    lines: tuple[str, ...]
    decided: bool = True
    sent: Callable[[bool], None] | None = None  # told whether the client took it


class Connection:
    """An accepted peer and what is known of its request."""

    __slots__ = ("arrived", "ends", "latest", "received", "socket")

    def __init__(self, accepted: socket.socket, arrived: float, latest: float = math.inf) -> None:
        """`latest` is the moment by which a lookup that met our start must be over."""
        self.socket = accepted
        self.arrived = arrived
        self.latest = latest
        self.received = b""
        self.ends = math.inf  # known once the request is

    def peer(self) -> tuple[int, int]:
        """Give process and user id that the peer had when it connected."""
        size = _PEER_CREDENTIALS.size
        data = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _gid = _PEER_CREDENTIALS.unpack(data)
        return pid, uid

    def greet(self) -> None:
        """Let the peer know that it is being served; the socket has room for a byte."""
        with contextlib.suppress(OSError):  # the peer has gone
            self.socket.send(client.GREETING)

    def receive(self) -> bytes | None:
        """Give the whole request once it is there.

        Raises ValueError where it will never be one, EOFError where the peer has gone.
        """
        try:
            data = self.socket.recv(client.REQUEST_LIMIT + _REQUEST_LENGTH.size + 1)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self.received += data
        if len(self.received) < _REQUEST_LENGTH.size:
            return None
        (length,) = _REQUEST_LENGTH.unpack_from(self.received)
        rest = len(self.received) - _REQUEST_LENGTH.size - length
        if length > client.REQUEST_LIMIT or rest > 0:
            raise ValueError("request too long")
        return self.received[_REQUEST_LENGTH.size :] if rest == 0 else None

    def send(self, reply: Reply, within_s: float) -> bool:
        """Send a reply; false where the peer has gone, or does not take it in time."""
        payload = "".join(f"{line}\n" for line in reply.lines).encode("utf-8", "backslashreplace")
        verdict = client.DECIDED if reply.decided else client.UNDECIDED
        self.socket.settimeout(within_s)
        try:
            self.socket.sendall(verdict + _REPLY_LENGTH.pack(len(payload)) + payload)
        except OSError:
            return False
        return True


def parse_request(
    data: bytes, arrived: float, deadline_s: float, latest: float = math.inf
) -> Request:
    """Give the lookup that the bytes after the length ask for; raises ValueError."""
    fields = data.split(b"\0")
    if len(fields) != 5 or fields[0] != client.PROTOCOL:
        raise ValueError("not a request of this protocol")
    user, fingerprint, sshd_pid, left_ms = fields[1:]
    if not (_NUMBER.fullmatch(sshd_pid) and _NUMBER.fullmatch(left_ms)):
        raise ValueError("not a number, or one that nobody has")
    return Request(
        os.fsdecode(user),
        os.fsdecode(fingerprint) or None,
        int(sshd_pid) or None,
        arrived,
        min(arrived + min(int(left_ms) / 1000, deadline_s), latest),
    )

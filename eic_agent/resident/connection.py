"""One client's connection, as the agent sees it: who it is, what it asks, what it is told.

The other end of the wire that client.py describes.
"""

import contextlib
import enum
import math
import os
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from eic_agent import client

# Requests of one field: for the status, answered in JSON; and the news that a client fell back.
STATUS_PROTOCOL = b"EIC1-STATUS"
FELL_BACK_PROTOCOL = b"EIC1-FELL-BACK"
# With user and fingerprint: a lookup that grants nothing, answered in JSON; of root only.
EXPLAIN_PROTOCOL = b"EIC1-EXPLAIN"

_NUMBER = re.compile(rb"[0-9]{1,10}")
# As sshd's %f gives it (sshd_config(5)), by either hash that it knows; ours is SHA-256's.
_FINGERPRINT = re.compile(rb"(SHA256:[A-Za-z0-9+/]{43}|MD5(:[0-9a-f]{2}){16})?")
_MOST_PID = 1 << 22  # proc(5), pid_max
_PEER_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED
_REQUEST_LENGTH = struct.Struct(">H")
_REPLY_LENGTH = struct.Struct(">I")


class Standing(enum.Enum):
    """What a peer may take."""

    SSHD = enum.auto()  # root, the agent's own user, sshd's client: all there is
    OTHER = enum.auto()  # another process of a client's user: a small share
    UNTOLD = enum.auto()  # a client's user where the kernel hides processes from us: half
    REFUSED = enum.auto()


class Peer(NamedTuple):
    """Process and user id of who connected, by the kernel's word: unix(7), SO_PEERCRED."""

    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class Request:
    """One lookup as a client asks for it; times are on the monotonic clock."""

    user: str  # undecodable bytes as surrogates, as os.fsdecode gives them
    fingerprint: str | None
    sshd_pid: int | None
    arrived: float
    ends: float
    peer: Peer
    explain: bool = False  # what each step finds is the answer; nothing is granted or counted


@dataclass(frozen=True, slots=True)
class Reply:
    """Lines for sshd, or, where nothing could be decided, one line of why; without line ends."""

    lines: tuple[str, ...]
    decided: bool = True
    undelivered: Callable[[], None] | None = None  # called where the client did not take it


class Connection:
    """An accepted peer and what is known of its request."""

    __slots__ = ("arrived", "ends", "latest", "peer", "received", "socket", "standing")

    def __init__(self, accepted: socket.socket, arrived: float, latest: float = math.inf) -> None:
        """`latest` is the moment by which a lookup that met our start must be over."""
        self.socket = accepted
        self.arrived = arrived
        self.latest = latest
        self.received = b""
        self.ends = math.inf  # known once the request is
        size = _PEER_CREDENTIALS.size
        data = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _gid = _PEER_CREDENTIALS.unpack(data)
        self.peer = Peer(pid, uid)
        self.standing = Standing.REFUSED  # until `Peers` has said otherwise

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
    data: bytes, peer: Peer, arrived: float, deadline_s: float, latest: float = math.inf
) -> Request:
    """Give the lookup that the bytes after the length ask for; raises ValueError."""
    fields = data.split(b"\0")
    if fields[0] == EXPLAIN_PROTOCOL and len(fields) == 3 and peer.uid == 0:
        who, key = map(os.fsdecode, fields[1:])
        ends = min(arrived + deadline_s, latest)
        return Request(who, key or None, None, arrived, ends, peer, explain=True)
    if len(fields) != 5 or fields[0] != client.PROTOCOL:
        raise ValueError("not a request of this protocol")
    user, fingerprint, sshd_pid, left_ms = fields[1:]
    if not (_NUMBER.fullmatch(sshd_pid) and _NUMBER.fullmatch(left_ms)):
        raise ValueError("not a number, or one that nobody has")
    if int(sshd_pid) > _MOST_PID:
        raise ValueError("a process id that no process has")
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ValueError("not a fingerprint as sshd gives it")
    return Request(
        os.fsdecode(user),
        os.fsdecode(fingerprint) or None,
        int(sshd_pid) or None,
        arrived,
        min(arrived + min(int(left_ms) / 1000, deadline_s), latest),
        peer,
    )

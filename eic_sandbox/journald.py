"""A journald for tests: its socket, and a strict reader of the native protocol."""

import array
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_FIELD_NAME = re.compile(rb"[A-Z][A-Z0-9_]{0,63}")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Entry(NamedTuple):
    fields: dict[str, str]
    by_memfd: bool


@dataclass
class Journald:
    """Entries are read when they are asked for, so that a queue can be left to fill."""

    path: Path
    socket: socket.socket

    def entries(self) -> list[Entry]:
        """Every entry that waits, in order."""
        return list(self._receive())

    def entry(self) -> dict[str, str]:
        """The fields of the only entry that waits."""
        (entry,) = self.entries()
        return entry.fields

    def _receive(self) -> Iterator[Entry]:
        while True:
            try:
                payload, ancillary, flags, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return
            assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            if not ancillary:
                yield Entry(parse(payload), by_memfd=False)
                continue
            assert not payload, "journald drops a datagram with both payload and file descriptor"
            ((level, kind, data),) = ancillary
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            (fd,) = array.array("i", data)
            with os.fdopen(fd, "rb") as memfd:
                assert fcntl.fcntl(memfd, fcntl.F_GET_SEALS) == _SEALS
                memfd.seek(0)
                yield Entry(parse(memfd.read()), by_memfd=True)


def parse(payload: bytes) -> dict[str, str]:
    """Read one entry: lines NAME=value, or NAME, 64-bit little-endian length, value, newline."""
    fields: dict[str, str] = {}
    while payload:
        line, end, rest = payload.partition(b"\n")
        assert end, "an entry ends with a newline"
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        assert _FIELD_NAME.fullmatch(name), name
        assert name.decode() not in fields, name
        fields[name.decode()] = value.decode("utf-8")
        payload = rest
    return fields


@contextmanager
def journald(directory: Path) -> Iterator[Journald]:
    """Listen on a socket in this directory."""
    path = directory / "journald"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(path))
        yield Journald(path, listener)

"""Where entries go: journald's socket, or lines on stderr where there is no journal."""

import errno
import fcntl
import os
import socket
import struct
from array import array
from pathlib import Path
from typing import Protocol, TextIO

from eic_agent.journal.entries import Fields

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TIMEVAL = struct.Struct("@ll")
_LEAST_WAIT_S = 0.001  # 0 would mean to the kernel that there is no limit


class Output(Protocol):
    """Takes entries, and decides nothing about them; safe to use from many threads at once."""

    def deliver(self, fields: Fields, within_s: float = 0) -> bool:
        """Write one entry; False where nobody takes it in time. Raises OSError where nobody is."""

    def close(self) -> None:
        """Let go of what the output holds."""


class StderrOutput:
    """One line for each entry: the message, then our own fields as name=value (logfmt)."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None in a process started without a stderr

    def deliver(self, fields: Fields, within_s: float = 0) -> bool:  # noqa: ARG002 - never waits
        """Write one line; False where nobody reads."""
        if self._stream is None:
            return False
        # Only where there is no journal: it brings asyncio, for which a login on a host would wait,
        # and which the resident agent would keep in memory.
        from structlog.processors import LogfmtRenderer

        own = {name: value for name, value in fields.items() if name.startswith("EIC_")}
        line = f"eic-agent: {fields['MESSAGE']} {LogfmtRenderer()(None, '', own)}".rstrip()
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Leave the stream to whoever opened it."""


class JournaldOutput:
    """Datagrams in journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, socket_path: Path) -> None:
        # Not connected: each datagram finds journald's socket anew, also after a restart.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path = str(socket_path)

    def deliver(self, fields: Fields, within_s: float = 0) -> bool:
        """Write one entry; False where journald's queue stays full. Raises OSError without one."""
        # Escaped values have no line ends, so the short form does for all of them.
        payload = "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
        try:
            self._send(self._socket, payload)
        except BlockingIOError:
            return within_s > 0 and self._wait(payload, within_s)
        return True

    def _wait(self, payload: bytes, within_s: float) -> bool:
        """Stand in line for a place in journald's queue, which anybody on this machine can fill.

        The kernel wakes who waits in turn. It tells poll() nothing about the queue of a peer that
        a socket is not connected to, so the limit is the socket's own, and so is the socket.
        """
        seconds = max(within_s, _LEAST_WAIT_S)
        limit = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waiting:
            waiting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            try:
                self._send(waiting, payload)
            except BlockingIOError:
                return False
        return True

    def _send(self, sender: socket.socket, payload: bytes) -> None:
        try:
            sender.sendto(payload, self._path)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            memfd = os.memfd_create("eic-agent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with os.fdopen(memfd, "wb") as file:
                file.write(payload)
                file.flush()
                fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
                passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file.fileno()]))]
                sender.sendmsg([b""], passed, 0, self._path)

    def close(self) -> None:
        """Close our end."""
        self._socket.close()

"""Where entries go: journald's socket, or lines on stderr where there is no journal."""

import errno
import fcntl
import os
import socket
from array import array
from pathlib import Path
from typing import Protocol, TextIO

from eic_agent.journal.entries import Fields

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Output(Protocol):
    """Takes entries, and decides nothing about them; safe to use from many threads at once."""

    def deliver(self, fields: Fields) -> bool:
        """Write one entry, if that goes without waiting."""

    def close(self) -> None:
        """Let go of what the output holds."""


class StderrOutput:
    """One line for each entry: the message, then our own fields as name=value (logfmt)."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None in a process started without a stderr

    def deliver(self, fields: Fields) -> bool:
        """Write one line; False where nobody reads."""
        if self._stream is None:
            return False
        own = [f"{name}={_quoted(value)}" for name, value in fields.items() if name[:4] == "EIC_"]
        try:
            self._stream.write(f"{' '.join(['eic-agent:', fields['MESSAGE'], *own])}\n")
            self._stream.flush()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Leave the stream to whoever opened it."""


def _quoted(value: str) -> str:
    if any(character in value for character in ' ="'):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return value


class JournaldOutput:
    """Datagrams in journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    Where journald is not there, `otherwise` gets the entry.
    """

    def __init__(self, socket_path: Path, otherwise: StderrOutput) -> None:
        # Not connected: each datagram finds journald's socket anew, also after a restart.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path = str(socket_path)
        self._otherwise = otherwise

    def deliver(self, fields: Fields) -> bool:
        """Write one entry; False where journald's queue is full."""
        # Escaped values have no line ends, so the short form does for all of them.
        payload = "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
        try:
            self._send(payload)
        except BlockingIOError:
            return False
        except OSError:
            return self._otherwise.deliver(fields)
        return True

    def _send(self, payload: bytes) -> None:
        try:
            self._socket.sendto(payload, self._path)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            memfd = os.memfd_create("eic-agent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with os.fdopen(memfd, "wb") as file:
                file.write(payload)
                file.flush()
                fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
                passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file.fileno()]))]
                self._socket.sendmsg([b""], passed, 0, self._path)

    def close(self) -> None:
        """Close our end."""
        self._socket.close()

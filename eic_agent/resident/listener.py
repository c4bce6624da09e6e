"""The socket that the agent listens on: systemd's (sd_listen_fds(3)), or its own at a path."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

from eic_agent.errors import EicAgentError

_FIRST_FD = 3
_BACKLOG = 512


class NoSocket(EicAgentError):
    """There is no socket to serve on; the text says what would be."""


class Listener:
    """The listening socket, and its path where it is ours to remove."""

    def __init__(self, listening: socket.socket, path: Path | None = None) -> None:
        listening.setblocking(False)
        self.socket = listening
        self._path = path
        self._inode = _inode(path) if path else None

    @classmethod
    def at(cls, path: Path) -> "Listener":
        """Listen at a path, over the remains of an agent that is gone; raises NoSocket.

        The path leads to us as soon as it is there. Everybody may connect: who is answered is
        decided by the peer's user id.
        """
        listening = socket.socket(socket.AF_UNIX)
        unfinished = path.with_name(f".{os.getpid()}")
        try:
            _check_abandoned(path)
            umask = os.umask(0o111)
            try:
                listening.bind(str(unfinished))
            finally:
                os.umask(umask)
            listening.listen(_BACKLOG)
            unfinished.rename(path)
            return cls(listening, path)
        except OSError as error:
            listening.close()
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise NoSocket(f"cannot listen at {path}: {error.strerror or error}") from error

    @classmethod
    def inherited(cls, environ: MutableMapping[str, str]) -> "Listener":
        """Take the one listening unix socket that systemd passes; raises NoSocket.

        Removes the variables that tell of it, so that no child takes them for its own.
        """
        pid, count = environ.pop("LISTEN_PID", None), environ.pop("LISTEN_FDS", None)
        environ.pop("LISTEN_FDNAMES", None)
        if pid != str(os.getpid()) or count is None:
            raise NoSocket(
                "systemd passes no socket: start eic-agent.socket, or give --socket PATH"
            )
        if count != "1":
            raise NoSocket(f"systemd passes {count} sockets: eic-agent.socket must have one")
        try:
            listening = socket.socket(fileno=_FIRST_FD)
        except OSError as error:
            raise NoSocket(f"file descriptor {_FIRST_FD} is no socket: {error.strerror}") from error
        listening.set_inheritable(False)
        listens = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if (listening.family, listening.type, listens) != (socket.AF_UNIX, socket.SOCK_STREAM, 1):
            listening.close()
            raise NoSocket("systemd passes no listening unix stream: write ListenStream=/PATH")
        return cls(listening)

    def withdraw(self) -> None:
        """Remove the path, if it is ours and still leads here: nobody new can connect."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            if _inode(self._path) == self._inode:
                self._path.unlink()

    def close(self) -> None:
        """Let go of the socket; what waits in systemd's stays there."""
        self.withdraw()
        self.socket.close()


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _check_abandoned(path: Path) -> None:
    """Raise OSError unless nothing is there, or a socket on which nobody listens."""
    if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
        raise FileExistsError(errno.EEXIST, "something else than a socket is there")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))  # also shows whether clients could: the path may be too long
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except BlockingIOError:
            pass  # its backlog is full, so it has one
    raise OSError(errno.EADDRINUSE, "another agent listens there")

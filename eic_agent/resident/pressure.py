"""How a service learns that memory is short, from systemd 254 on: systemd.io/MEMORY_PRESSURE.

It is told a path to open, perhaps bytes to write there, and then the kernel, or whoever listens
there, says each time that processes wait for memory.
"""

import base64
import binascii
import contextlib
import os
import select
import stat
from collections.abc import MutableMapping

_MOST_READ = 4096


class Pressure:
    """Tells of pressure by being readable; raises OSError where nothing can be watched."""

    def __init__(self, path: str, write: bytes) -> None:
        self._watched = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._is_pipe = not stat.S_ISREG(os.fstat(self._watched).st_mode)
        # A file of the kernel's has something exceptional to say, a pipe something to read. Only an
        # epoll can wait for the former, and can itself be waited for as if it were to be read.
        self._poll = select.epoll(flags=select.EPOLL_CLOEXEC)
        try:
            if write:
                os.write(self._watched, write)
            self._poll.register(self._watched, select.EPOLLIN if self._is_pipe else select.EPOLLPRI)
        except OSError:
            self.close()
            raise

    @classmethod
    def told(cls, environ: MutableMapping[str, str]) -> "Pressure | None":
        """Give what systemd names in the environment, and take it out of there.

        None where it names nothing, /dev/null (it was switched off), or what cannot be watched:
        then the kernel has the last word, as without it.
        """
        path = environ.pop("MEMORY_PRESSURE_WATCH", "")
        encoded = environ.pop("MEMORY_PRESSURE_WRITE", "")
        if path in ("", "/dev/null"):
            return None
        with contextlib.suppress(OSError, binascii.Error):
            return cls(path, base64.b64decode(encoded, validate=True))
        return None

    def fileno(self) -> int:
        """Give the descriptor that becomes readable."""
        return self._poll.fileno()

    def take(self) -> None:
        """Take note of what it told, so that it can tell the next time."""
        self._poll.poll(0)
        if self._is_pipe:
            with contextlib.suppress(OSError):
                os.read(self._watched, _MOST_READ)

    def close(self) -> None:
        """Watch no longer."""
        self._poll.close()
        os.close(self._watched)

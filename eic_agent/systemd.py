"""What systemd passes to a service and wants to hear from it: sd_listen_fds(3), sd_notify(3)."""

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

from eic_agent.errors import EicAgentError

_FIRST_FD = 3
_SEND_TIMEOUT_S = 1.0


class NoSocket(EicAgentError):
    """There is no socket to serve on; the text says what would be."""


def inherited_listener(environ: MutableMapping[str, str]) -> socket.socket | None:
    """Take the one listening unix socket that systemd passes, or None where it passes nothing.

    Removes the variables, so that no child takes them for its own. Raises NoSocket where something
    else was passed.
    """
    pid, count = environ.pop("LISTEN_PID", None), environ.pop("LISTEN_FDS", None)
    environ.pop("LISTEN_FDNAMES", None)
    if pid is None or count is None or pid != str(os.getpid()):
        return None
    if count != "1":
        raise NoSocket(
            f"systemd passed {count} sockets, and one was expected: see its .socket unit"
        )
    try:
        listener = socket.socket(fileno=_FIRST_FD)
    except OSError as error:
        raise NoSocket(f"file descriptor {_FIRST_FD} is no socket: {error.strerror}") from error
    os.set_inheritable(_FIRST_FD, False)
    listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (listener.family, listener.type, listens) != (socket.AF_UNIX, socket.SOCK_STREAM, 1):
        listener.close()
        raise NoSocket(
            "systemd passed a socket that is no listening unix stream: ListenStream=PATH"
        )
    return listener


class Notifier:
    """Tells systemd how the service fares; silent where nobody listens."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Take what concerns us out of the environment."""
        path = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        pid, usec = environ.pop("WATCHDOG_PID", None), environ.pop("WATCHDOG_USEC", "")
        ours = self._address and usec.isdecimal() and pid in (None, str(os.getpid()))
        #: seconds between two calls of `alive`, half of what systemd allows; None: it watches not
        self.alive_every_s = int(usec) / 2e6 if ours else None

    def ready(self) -> None:
        """Say that lookups are answered, after the start or a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends that."""
        self._send(
            f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def stopping(self) -> None:
        """Say that the service is about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Keep the watchdog quiet."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_TIMEOUT_S)
            with contextlib.suppress(OSError):  # systemd gone or stuck: lookups go on
                sender.sendto(message.encode(), self._address)

"""What systemd wants to hear from a service: sd_notify(3)."""

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

_SEND_TIMEOUT_S = 1.0


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

"""What runs first in every process of `eic-agent`: greets who waits, then imports the rest.

Importing what a lookup needs takes longer than all else that a cold start does: a second or more
where the processor or the disk is slow. So what systemd starts tells waiting clients before that
that somebody is coming, and goes on telling those who come meanwhile. Like client.py, this imports
next to nothing.
"""

import _socket
import _thread
import gc
import posix
import select
import sys
from time import monotonic

from eic_agent import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BEGAN = monotonic()  # when this process began to run code of ours
LISTENING = 3  # sd_listen_fds(3): the first, and for us the only, socket that systemd passes

# What requests and urllib3 use where it is there and do without where it is not: TLS, proxies, and
# guesses at encodings. The agent speaks plain HTTP to the metadata service and to nobody else.
SPARED = ("chardet", "charset_normalizer", "ssl", "urllib3.contrib.socks")

_MOST_GREETED = 512  # as many as the service holds; who comes later waits in the backlog
_MOST_OF_A_STRANGER = 8
_LENGTH_OF_CREDENTIALS = 12  # pid, uid, gid: unix(7), SO_PEERCRED


class Greeter:
    """Accepts on systemd's socket and sends STARTING, until the service takes over.

    Whoever may connect is accepted here, since the configuration, which says who is answered, has
    not been read. So nobody but root and we ourselves gets more than a few places.
    """

    def __init__(self) -> None:
        """Begin, in a thread of its own."""
        self._connections: list[tuple[int, float]] = []
        self._by_uid: dict[int, int] = {}
        self._stopped, self._stop = posix.pipe()
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        posix.set_blocking(LISTENING, False)
        _thread.start_new_thread(self._run, ())

    def hand_over(self) -> list[tuple[int, float]]:
        """End; give the descriptor of each connection, and when it was accepted (monotonic)."""
        posix.close(self._stop)
        self._ended.acquire()
        posix.close(self._stopped)
        return self._connections

    def _run(self) -> None:
        try:
            listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, LISTENING)
            poll = select.poll()
            poll.register(LISTENING, select.POLLIN)
            poll.register(self._stopped, select.POLLHUP)
            while len(self._connections) < _MOST_GREETED:
                if any(descriptor == self._stopped for descriptor, _ in poll.poll()):
                    break
                self._greet(listening)
            listening.detach()
        except OSError:
            pass  # no socket that we could serve on, or no descriptor left: the service will say so
        finally:
            self._ended.release()

    def _greet(self, listening: _socket.socket) -> None:
        try:
            descriptor, _address = listening._accept()  # type: ignore[attr-defined] # noqa: SLF001 - socket.socket's own way
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        credentials = connection.getsockopt(
            _socket.SOL_SOCKET, _socket.SO_PEERCRED, _LENGTH_OF_CREDENTIALS
        )
        uid = int.from_bytes(credentials[4:8], sys.byteorder)
        places = self._by_uid.get(uid, 0)
        if uid not in (0, posix.geteuid()) and places >= _MOST_OF_A_STRANGER:
            connection.close()
            return
        self._by_uid[uid] = places + 1
        try:
            connection.setblocking(False)
            connection.send(client.STARTING)
        except OSError:
            pass  # it has gone; the service will notice
        self._connections.append((connection.detach(), monotonic()))


def greeter() -> "Greeter | None":
    """Give a greeter where systemd starts the resident agent on a socket of its own."""
    environment = posix.environ
    is_ours = environment.get(b"LISTEN_PID") == str(posix.getpid()).encode("ascii")
    is_service = "serve" in sys.argv[1:] and "authorized-keys" not in sys.argv[1:]
    return Greeter() if is_service and is_ours and environment.get(b"LISTEN_FDS") == b"1" else None


def import_the_rest() -> "Callable[..., int]":
    """Give what runs a command, imported without what nobody needs.

    Nothing that is imported is garbage, so nobody need look for any meanwhile.
    """
    import warnings

    gc.disable()
    warnings.filterwarnings("ignore", "Unable to find acceptable character detection")
    spared = [name for name in SPARED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(spared))  # type: ignore[arg-type] # None: cannot be imported
    from eic_agent import cli

    for name in spared:
        del sys.modules[name]
    gc.enable()
    return cli.main


def main() -> int:
    """Run one command and return its exit status."""
    waiting = greeter()
    run = import_the_rest()
    return run(None, BEGAN, waiting.hand_over) if waiting else run(None, BEGAN)

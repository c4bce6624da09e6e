"""Sockets that never keep anybody beyond a deadline, from connecting to the last byte.

A timeout for each receive would not do: a service that sends a byte a second meets it for ever.
"""

import contextlib
import errno
import os
import selectors
import socket
from collections.abc import Sequence
from typing import Any, cast

from eic_agent.metadata.deadline import Deadline
from eic_agent.metadata.endpoints import Address

# Most bytes of an answer on the wire with everything around the document; bounds what is buffered
# for framing that no cap on a document sees, such as endless headers or a chunk size of -1.
_MAX_RECEIVED = 2 << 20
# RFC 8305 5 recommends this, and the kernel repeats a lost SYN after a second only.
_NEXT_ATTEMPT_S = 0.25
# No packet has left where connecting fails like this: no route, a firewall of this host or the
# unit's IPAddressDeny, no IPv6 in this kernel, no descriptor left.
_SAID_BY_THIS_MACHINE = {
    errno.ENETUNREACH,
    errno.EPERM,
    errno.EACCES,
    errno.EAFNOSUPPORT,
    errno.EADDRNOTAVAIL,
    errno.EMFILE,
    errno.ENFILE,
}


class Lost(Exception):
    """No whole answer came; the text says why, and how far it came.

    `address` is the one that was connected to, None where none was. `sent`: something has left this
    machine, so that another attempt may fare better.
    """

    def __init__(self, problem: str, address: Address | None = None, *, sent: bool = True) -> None:
        super().__init__(problem)
        self.address = address
        self.sent = sent


class Improper(Exception):
    """What came is no answer that a metadata service would give; the text says why."""


class Wire(socket.socket):
    """A TCP connection that gives each send and receive what is left of a deadline."""

    def __init__(self, address: Address) -> None:
        """Begin to connect. Raises OSError where that fails at once."""
        super().__init__(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        self.address = address
        try:
            self.setblocking(False)
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):  # under way
                self.connect(address)
        except OSError:
            self.close()
            raise

    def expect_answer(self, deadline: Deadline) -> None:
        """Begin a request, which is over with its whole answer by the deadline."""
        self._deadline = deadline
        self._allotted_s = deadline.remaining()
        self._received = 0
        self.may_end = False
        """Whether the connection may end here: where it does, the answer is whole."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send everything; raises Lost."""
        try:
            self._limit()
            super().sendall(data, flags)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what the service said before it closed can still be read
        except OSError as error:
            raise self._lost(error) from error

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive what is there; raises Lost, and Improper. socket.makefile reads through this."""
        try:
            self._limit()
            count = super().recv_into(buffer, nbytes, flags)
            if count == 0 and not self.may_end:
                raise ConnectionResetError("connection closed")
        except OSError as error:
            raise self._lost(error) from error
        self._received += count
        if self._received > _MAX_RECEIVED:
            raise Improper(f"answered with more than {_MAX_RECEIVED} bytes")
        return count

    def discard(self) -> None:
        """Close at once, though files made of this socket are still open."""
        if self.fileno() >= 0:
            os.close(self.detach())

    def _limit(self) -> None:
        left = self._deadline.remaining()
        if not left:
            raise TimeoutError
        self.settimeout(left)

    def _lost(self, error: OSError) -> Lost:
        late = isinstance(error, TimeoutError)
        problem = f"out of time after {self._allotted_s:.2g} s" if late else _described(error)
        came = f"{self._received} bytes of the answer" if self._received else "no answer"
        return Lost(f"{problem}, with {came}", self.address)


def _described(error: OSError) -> str:
    return error.strerror or str(error)


def dial(addresses: Sequence[Address], deadline: Deadline) -> Wire:
    """Connect to whichever address is the first to take a connection; raises Lost.

    A SYN may be lost, and an address may lead nowhere. So while nothing connects, another attempt
    begins a little later, to each address in turn, and the earlier ones go on.
    """
    allotted_s = deadline.remaining()
    pause_s = _NEXT_ATTEMPT_S
    problems: dict[Address, OSError] = {}
    with selectors.PollSelector() as pending:
        try:
            while True:
                for address in addresses:
                    try:
                        pending.register(Wire(address), selectors.EVENT_WRITE)
                    except OSError as error:
                        problems[address] = error
                    wire = _first_connected(pending, deadline.at_most(pause_s), problems)
                    if wire is not None:
                        return wire
                if not deadline.remaining():
                    raise Lost(f"out of time after {allotted_s:.2g} s, not connected")
                if not pending.get_map():
                    said = [f"{host}: {_described(e)}" for (host, _), e in problems.items()]
                    raise Lost(
                        f"not connected ({', '.join(said)})",
                        sent=any(e.errno not in _SAID_BY_THIS_MACHINE for e in problems.values()),
                    )
                pause_s *= 2
        finally:
            for key in pending.get_map().values():
                cast(Wire, key.fileobj).close()


def _first_connected(
    pending: selectors.BaseSelector, patience: Deadline, problems: dict[Address, OSError]
) -> Wire | None:
    while pending.get_map() and (left_s := patience.remaining()):
        for key, _ in pending.select(left_s):
            wire = cast(Wire, key.fileobj)
            pending.unregister(wire)
            code = wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return wire
            wire.close()
            problems[wire.address] = OSError(code, os.strerror(code))
    return None

"""What the tests of the metadata room share: times, paths, and faults written by hand."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_agent.metadata.exchange import Answer
from eic_sandbox.simulator import faults
from eic_sandbox.simulator.simulator import META

INSTANCE_ID = META + "instance-id/"
REGION = META + "placement/region"
PLENTY_S = 60.0
"""For what must happen, however slow the machine."""

MakeClient = Callable[..., MetadataClient]
Ask = Callable[..., Answer]
Use = Callable[[str, str], None]
"""Makes two addresses stand for those of IPv4 and IPv6."""


def plenty() -> Deadline:
    return Deadline.after(PLENTY_S)


def held_back(let_go: threading.Event, arrived: threading.Event | None = None) -> faults.Fault:
    """Answer properly, but not before an event; another one tells that somebody asked."""

    def fault(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
        if arrived is not None:
            arrived.set()
        let_go.wait(PLENTY_S)
        yield answer.raw()

    return fault


def endless(begin: bytes, again: bytes, interval_s: float) -> faults.Fault:
    """Send these bytes again and again behind the first ones."""

    def fault(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
        yield begin
        while True:
            yield again
            wait(interval_s)

    return fault


def with_header(name: str, value: str) -> faults.Fault:
    """Answer properly, with one header more, or another one."""

    def fault(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
        answer.headers[name] = value
        yield answer.raw()

    return fault


@contextlib.contextmanager
def never_accepting() -> Iterator[str]:
    """Listen with a full backlog, so that to connect takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
            yield f"http://127.0.0.1:{address[1]}"

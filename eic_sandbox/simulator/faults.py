"""Ways in which a metadata service can misbehave on the wire; put one at `sim.faults[PATH]`.

A fault is called with the answer that would have been sent, and yields what is sent instead. After
it the connection is closed where it raises `Hangup` or where the answer says so. `wait` sleeps, and
ends early by `Hangup` when the server stops.
"""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias


class Hangup(Exception):
    """The server closes the connection now."""


@dataclass
class Answer:
    """An HTTP answer, before it becomes bytes."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    with_body: bool = True

    def head(self) -> bytes:
        """Status line and headers with the blank line after them."""
        lines = [f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, 'Unnamed')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def raw(self) -> bytes:
        """Return everything that goes over the wire."""
        self.headers.setdefault("Content-Length", str(len(self.body)))
        return self.head() + (self.body if self.with_body else b"")


Wait: TypeAlias = Callable[[float], None]
Fault: TypeAlias = Callable[[Answer, Wait], Iterator[bytes]]

_PHRASES = {
    200: "OK",
    301: "Moved Permanently",
    302: "Found",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def drip_headers(interval_s: float) -> Fault:
    """Send the whole answer byte by byte, from its first header on."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        for byte in answer.raw():
            yield bytes([byte])
            wait(interval_s)

    return fault


def drip_body(interval_s: float) -> Fault:
    """Send the headers at once and the body byte by byte."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        raw = answer.raw()
        yield answer.head()
        for byte in raw[len(answer.head()) :]:
            yield bytes([byte])
            wait(interval_s)

    return fault


def delay(seconds: float) -> Fault:
    """Answer properly, but late."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        wait(seconds)
        yield answer.raw()

    return fault


def silence() -> Fault:
    """Never answer, as if the packets were dropped."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        while True:
            wait(60.0)
            yield b""

    return fault


def drop(after_bytes: int = 0) -> Fault:
    """Close the connection after so many bytes of the answer."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        yield answer.raw()[:after_bytes]
        raise Hangup

    return fault


def status(code: int, body: bytes = b"") -> Fault:
    """Answer with another status."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        answer.status, answer.body = code, body
        yield answer.raw()

    return fault


def redirect(location: str, code: int = 302) -> Fault:
    """Send the client elsewhere."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        answer.status, answer.body, answer.headers["Location"] = code, b"", location
        yield answer.raw()

    return fault


def oversized(total_bytes: int, declared: bool = True) -> Fault:
    """Send a huge body, its length declared, or else ended by closing the connection."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        if declared:
            answer.headers["Content-Length"] = str(total_bytes)
        else:
            answer.headers["Connection"] = "close"
        yield answer.head()
        sent = 0
        while sent < total_bytes:
            size = min(65536, total_bytes - sent)
            yield b"A" * size
            sent += size

    return fault


def compressed(body: bytes | None = None) -> Fault:
    """Send the body, or another one, compressed with gzip, even if the client did not ask."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        answer.body = gzip.compress(answer.body if body is None else body)
        answer.headers["Content-Encoding"] = "gzip"
        yield answer.raw()

    return fault


def raw(data: bytes) -> Fault:
    """Send these bytes, whatever they are, and close the connection."""

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        yield data
        raise Hangup

    return fault


def times(count: int, inner: Fault) -> Fault:
    """Let the fault happen so many times, and answer properly after that."""
    left = count

    def fault(answer: Answer, wait: Wait) -> Iterator[bytes]:
        nonlocal left
        if left > 0:
            left -= 1
            yield from inner(answer, wait)
        else:
            yield answer.raw()

    return fault

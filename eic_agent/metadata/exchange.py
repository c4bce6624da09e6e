"""One request to the metadata service and its whole answer, bounded whatever the service does.

A request takes no longer than its deadline: each connect, send and receive gets what is left of it
(`_Socket`). What an answer may hold is bounded on the wire and after decompression.
"""

import http.client
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse, HTTPResponse

from eic_agent import __version__
from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata.deadline import Deadline

_HEADERS = {"User-Agent": f"eic-agent/{__version__}", "Accept-Encoding": "identity"}
# Most bytes of an answer on the wire with everything around the document; bounds what is buffered
# for framing that no cap on a document sees, such as endless headers or a chunk size of -1.
_MAX_WIRE = 2 << 20
# Connections kept alive to one endpoint; more may be open at a time.
_KEPT_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `asked` is method and URL of the request."""

    asked: str
    status: int
    body: bytes
    date: str | None

    def document(self) -> bytes:
        """Give what a 200 brought; anything else is none, redirects too."""
        if self.status == 200:
            return self.body
        kind = MetadataUnreachable if self.status >= 500 else MetadataUnavailable
        raise kind(f"{self.asked}: answered {self.status}")


class Broken(Exception):
    """There is no whole answer; the text says how far it came.

    Raised where it happens, below urllib3 and requests, which let it pass: what they make of an
    OSError or HTTPException no longer says whether the service was heard at all. `silent`: not a
    byte came; `late`: the time was over; `stale`: the service had closed a kept-alive connection.
    """

    def __init__(
        self, problem: str, *, silent: bool = False, late: bool = False, stale: bool = False
    ) -> None:
        super().__init__(problem)
        self.silent = silent
        self.late = late
        self.stale = stale


class Service(HTTPAdapter):
    """One endpoint, with the connections kept alive to it.

    The adapter is used without a requests.Session: that would add proxies, netrc, cookies and
    redirects, and reads the body of a redirect, decompressed, with no bound.
    """

    def __init__(self, url: str, on_sent: Callable[[], None]) -> None:
        super().__init__()
        self.url = url
        parts = urlsplit(url)
        # What the pool does not know it hands to each connection that it makes.
        self._pool = _Pool(
            parts.hostname or "", parts.port, maxsize=_KEPT_CONNECTIONS, on_sent=on_sent
        )

    def ask(
        self, method: str, path: str, header: dict[str, str], cap: int, deadline: Deadline
    ) -> Answer:
        """Give the whole answer, with at most `cap` bytes of body. Raises Broken."""
        request = requests.PreparedRequest()
        request.method = method
        # Not prepare(): it resolves dot segments and undoes percent-encoding.
        request.url = self.url + path
        request.headers = CaseInsensitiveDict(_HEADERS | header)
        try:
            return self._exchange(request, cap, deadline)
        except Broken as broken:
            if not broken.stale:
                raise
        return self._exchange(request, cap, deadline)

    def _exchange(self, request: requests.PreparedRequest, cap: int, deadline: Deadline) -> Answer:
        left = deadline.remaining()
        if not left:
            raise Broken("no time left to ask", silent=True, late=True)
        try:
            with self.send(request, stream=True, timeout=left) as response:
                body = _read(response.raw, cap)
        except (requests.RequestException, HTTPError) as error:
            raise Broken(f"the answer is no proper HTTP: {_printable(error)}") from error
        return Answer(
            f"{request.method} {request.url}",
            response.status_code,
            body,
            response.raw.headers.get("Date"),
        )

    def close(self) -> None:
        """Close every kept-alive connection."""
        self._pool.close()
        super().close()

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> HTTPConnectionPool:
        """Give the one pool, whatever the environment says about proxies."""
        return self._pool

    def build_response(
        self,
        req: requests.PreparedRequest,  # noqa: ARG002 - the signature is requests'
        resp: BaseHTTPResponse,
    ) -> requests.Response:
        """Give status and stream and nothing else: cookies are not even parsed."""
        response = requests.Response()
        response.status_code = resp.status
        response.raw = resp
        return response


def _read(raw: BaseHTTPResponse, cap: int) -> bytes:
    """Read a body to its end, decompressed; urllib3 (since 2.6) decompresses no more than asked."""
    body = b""
    try:
        while piece := raw.read(cap + 1 - len(body), decode_content=True):
            body += piece
            if len(body) > cap:
                raise Broken(f"answered {raw.status} with more than {cap} bytes")
    except ValueError as error:  # a negative chunk size
        raise Broken(f"answered with an impossible length: {_printable(error)}") from error
    return body


def _printable(error: Exception) -> str:
    """Describe an error that may quote what the service sent."""
    return ascii(str(error))[:200]


class _Connection(HTTPConnection):
    """A connection whose `timeout` bounds a request and its answer as a whole."""

    sock: "_Socket | Any"  # None while there is no connection

    def __init__(self, *args: Any, on_sent: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_sent = on_sent
        self._deadline = Deadline(0.0)

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._deadline = Deadline.after(self.timeout or 0.0)
        if self.sock is not None:
            self.sock.expect_answer(self._deadline, reused=True)
        super().request(*args, **kwargs)
        self._on_sent()

    def connect(self) -> None:
        try:
            sock = _Socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        except OSError as error:  # no IPv6 in this kernel, no descriptor left
            raise Broken(f"{error.strerror}, nothing sent", silent=True) from error
        try:
            sock.expect_answer(self._deadline, reused=False)
            sock.connect((self.host, self.port))
        except Broken:
            sock.close()
            raise
        self.sock = sock

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 has it
        sock = self.sock
        try:
            response = super().getresponse()
        except http.client.HTTPException as error:
            raise Broken(f"the answer is no proper HTTP: {_printable(error)}") from error
        sock.in_head = False
        return response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _Socket(socket.socket):
    """Gives each connect, send and receive what is left of a deadline, and counts what comes."""

    def expect_answer(self, deadline: Deadline, *, reused: bool) -> None:
        """Begin anew for another request; `reused`: over a connection that was kept alive."""
        self._deadline = deadline
        self._allotted_s = deadline.remaining()
        self._reused = reused
        self._received = 0
        self.in_head = True

    def connect(self, address: Any) -> None:
        try:
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._limit()
            super().connect(address)
        except OSError as error:
            raise self._broken(error) from error

    def sendall(self, data: Any, flags: int = 0) -> None:
        try:
            self._limit()
            super().sendall(data, flags)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what the service said before it closed can still be read
        except OSError as error:
            raise self._broken(error) from error

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        try:
            self._limit()
            count = super().recv_into(buffer, nbytes, flags)
            if count == 0 and self.in_head:  # http.client takes this for the end of the headers
                raise ConnectionResetError("connection closed")
        except OSError as error:
            raise self._broken(error) from error
        self._received += count
        if self._received > _MAX_WIRE:
            raise Broken(f"answered with more than {_MAX_WIRE} bytes")
        return count

    def _limit(self) -> None:
        left = self._deadline.remaining()
        if not left:
            raise TimeoutError
        self.settimeout(left)

    def _broken(self, error: OSError) -> Broken:
        late = isinstance(error, TimeoutError)
        problem = (
            f"out of time after {self._allotted_s:.2g} s" if late else error.strerror or str(error)
        )
        if self._received:
            return Broken(f"{problem}, with {self._received} bytes of the answer", late=late)
        closed = isinstance(error, ConnectionResetError)
        return Broken(
            f"{problem}, with no answer", silent=True, late=late, stale=closed and self._reused
        )

"""One request to the metadata service and its whole answer, bounded whatever the service does.

requests speaks HTTP, through its adapter alone: a requests.Session would add proxies, netrc,
cookies and redirects, and reads the body of a redirect, decompressed, with no bound. The adapter's
connections are ours (`wire`), so that one deadline holds for connecting, asking and every byte of
the answer.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from eic_agent.metadata.endpoints import Address, url_of
from eic_agent.metadata.wire import Improper, Lost, Wire, dial

_HEADERS = {"User-Agent": f"eic-agent/{__version__}", "Accept-Encoding": "identity"}
# Connections kept alive; more may be open at a time.
_KEPT_CONNECTIONS = 32
# Answers that the next attempt may not get (RFC 9110 15.5, 15.6; RFC 6585 4).
_PASSING = {429, 500, 502, 503, 504}


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
        kind = MetadataUnreachable if self.status in _PASSING else MetadataUnavailable
        raise kind(f"{self.asked}: answered {self.status}")


class Service:
    """The metadata service, with the connections kept alive to it; for many threads."""

    def __init__(self, addresses: Sequence[Address], on_sent: Callable[[], None]) -> None:
        """Ask nothing yet. `on_sent` is called as each request leaves."""
        self._addresses = tuple(addresses)
        self._on_sent = on_sent
        self._lock = threading.Lock()
        self._adapter = _Adapter(self._new_pool())
        self._closed = False

    def ask(
        self, method: str, path: str, header: dict[str, str], cap: int, deadline: Deadline
    ) -> Answer:
        """Give the whole answer, with at most `cap` bytes of body once it is decompressed.

        Raises MetadataUnreachable where no whole answer came, so that asking again may help;
        MetadataUnavailable where it would not, since what came is no answer, or nothing could be
        sent.
        """
        request = requests.PreparedRequest()
        request.method = method
        # Not prepare(): it resolves dot segments and undoes percent-encoding.
        request.url = url_of(self._addresses[0]) + path
        request.headers = CaseInsensitiveDict(_HEADERS | header)
        asked = f"{method} {request.url}"
        try:
            left_s = deadline.remaining()
            if not left_s:
                raise Lost("no time left to ask")
            with self._adapter.send(request, stream=True, timeout=left_s) as response:
                body = _read(response.raw, cap)
        except Lost as lost:
            self._doubt(lost.address)
            kind = MetadataUnreachable if lost.sent else MetadataUnavailable
            raise kind(f"{asked}: {lost}") from lost
        except Improper as error:
            raise MetadataUnavailable(f"{asked}: {error}") from error
        except (requests.RequestException, HTTPError) as error:
            problem = f"the answer is no proper HTTP: {_printable(error)}"
            raise MetadataUnavailable(f"{asked}: {problem}") from error
        finally:
            if self._closed:
                self._drop_connections()
        return Answer(asked, response.status_code, body, response.raw.headers.get("Date"))

    def close(self) -> None:
        """Close what is kept alive, and keep nothing from now on; who is asking is not cut off."""
        self._closed = True
        self._drop_connections()

    def _drop_connections(self) -> None:
        # Not closed: a request may have taken the old pool a moment ago. A pool closes what it
        # keeps when nobody has it any more.
        self._adapter.pool = self._new_pool()

    def _new_pool(self) -> HTTPConnectionPool:
        # What the pool does not know it hands to each connection that it makes.
        return _Pool("metadata", maxsize=_KEPT_CONNECTIONS, dial=self._dial, on_sent=self._on_sent)

    def _dial(self, deadline: Deadline) -> Wire:
        wire = dial(self._addresses, deadline)
        with self._lock:
            self._addresses = tuple(sorted(self._addresses, key=lambda a: a != wire.address))
        return wire

    def _doubt(self, address: Address | None) -> None:
        """Ask another address first, over a new connection.

        What kept one connection from being answered, others kept alive have met too: a firewall
        that lost its state, say, and each would cost a request the time to find that out.
        """
        if address is not None:
            with self._lock:
                self._addresses = tuple(sorted(self._addresses, key=lambda a: a == address))
            self._drop_connections()


def _read(raw: BaseHTTPResponse, cap: int) -> bytes:
    """Read a body to its end; urllib3 (since 2.6) decompresses no more than it is asked for."""
    body = b""
    try:
        while piece := raw.read(cap + 1 - len(body), decode_content=True):
            body += piece
            if len(body) > cap:
                raise Improper(f"answered {raw.status} with more than {cap} bytes")
    except ValueError as error:  # a negative chunk size
        raise Improper(f"answered with an impossible length: {_printable(error)}") from error
    return body


def _printable(error: Exception) -> str:
    """Describe an error that may quote what the service sent."""
    return ascii(str(error))[:200]


class _Adapter(HTTPAdapter):
    """Leads to one pool; both methods are there to be overridden."""

    def __init__(self, pool: HTTPConnectionPool) -> None:
        super().__init__()
        self.pool = pool

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> HTTPConnectionPool:
        """Give the one pool, whatever address the URL shows."""
        return self.pool

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


class _Connection(HTTPConnection):
    """A connection whose `timeout` bounds a request and its answer as a whole."""

    sock: "Wire | Any"  # None while there is no connection

    def __init__(
        self,
        *args: Any,
        dial: Callable[[Deadline], Wire],
        on_sent: Callable[[], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._dial = dial
        self._on_sent = on_sent

    def request(self, *args: Any, **kwargs: Any) -> None:
        deadline = Deadline.after(self.timeout or 0.0)
        if self.sock is None:
            self.sock = self._dial(deadline)
            self.host, self.port = self.sock.address  # as the Host header says it
        self.sock.expect_answer(deadline)
        super().request(*args, **kwargs)
        self._on_sent()

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 has it
        wire = self.sock
        with contextlib.ExitStack() as failing:
            # What was read of an answer that is none would keep the connection open.
            failing.callback(wire.discard)
            response = super().getresponse()
            failing.pop_all()
        # Without a length, the end of the connection is the end of the answer (RFC 9112 6.3).
        wire.may_end = not response.chunked and response.length_remaining is None
        return response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection

"""The metadata service, IMDSv2 only: the one module that speaks HTTP.

Whatever goes wrong between asking and having a document is MetadataUnavailable, which says what was
asked and what came back. What a document says is not believed here, only bounded and decoded.

One request takes `timeout_s` at most and never more than is left of the caller's deadline, however
the service behaves: each connect, send and receive gets what is left (`_Socket`).
"""

import base64
import binascii
import contextlib
import http.client
import ipaddress
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse, HTTPResponse

from eic_agent import __version__
from eic_agent.errors import (
    ConfigError,
    MetadataUnavailable,
    Reason,
    UntrustedMaterial,
)

IPV4_ENDPOINT = "http://169.254.169.254"
IPV6_ENDPOINT = "http://[fd00:ec2::254]"

_META_DATA = "/latest/meta-data/"
_SSH_KEYS = _META_DATA + "managed-ssh-keys/"
_TOKEN_PATH = "/latest/api/token"  # noqa: S105 - where tokens are made
_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_TTL_S = 21600
_HEADERS = {"User-Agent": f"eic-agent/{__version__}", "Accept-Encoding": "identity"}
_TOKEN_MARGIN_S = 60

# Most bytes of a document, after decompression.
_MAX_TEXT = 1024
_MAX_LIST = 65536
_MAX_KEYS = 1 << 20
_MAX_CHAIN = 65536
_MAX_STAPLE = 65536
# Most bytes of an answer on the wire with everything around the document; bounds what is buffered
# for framing that the caps above never see, such as endless headers or a chunk size of -1.
_MAX_WIRE = _MAX_KEYS + (1 << 20)
_MAX_STAPLES = 16
_URL = re.compile(
    r"http://(?P<host>localhost|[0-9.]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?/?",
    re.ASCII | re.IGNORECASE,
)
_STAPLE_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9._-]{1,128}", re.ASCII)
_IMF_FIXDATE = re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)  # RFC 9110 5.6.7
# Failures that take less, such as a refused connection, need not be spared anybody.
_SLOW_S = 0.1
# Connections kept alive to one endpoint; more may be open at a time.
_KEPT_CONNECTIONS = 32


class MetadataUnreachable(MetadataUnavailable):
    """The service did not answer, or not in time, or answered that it is out of order (5xx)."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which something must be over."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Give the moment so many seconds from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Give the seconds left, never less than 0."""
        return max(0.0, self.at - time.monotonic())

    def at_most(self, seconds: float) -> "Deadline":
        """Give the earlier of this moment and the one so many seconds from now."""
        return Deadline(min(self.at, time.monotonic() + seconds))


NEVER = Deadline(math.inf)


def endpoint_urls(endpoint: str) -> tuple[str, ...]:
    """Give the base URLs, in the order to try, of `auto`, `ipv4`, `ipv6` or a URL.

    Raises ConfigError for anything else, and for a host name: how long it takes to look one up
    cannot be bounded. `localhost` is never looked up (RFC 6761 6.3).
    """
    named = {
        "auto": (IPV4_ENDPOINT, IPV6_ENDPOINT),
        "ipv4": (IPV4_ENDPOINT,),
        "ipv6": (IPV6_ENDPOINT,),
    }
    if endpoint in named:
        return named[endpoint]
    url = _URL.fullmatch(endpoint)
    if url is not None and int(url["port"] or "80") in range(1, 65536):
        port = f":{url['port']}" if url["port"] else ""
        hosts = ("127.0.0.1", "[::1]") if url["host"] == "localhost" else (url["host"],)
        with contextlib.suppress(ValueError):
            for host in hosts:
                ipaddress.ip_address(host.strip("[]"))
            return tuple(f"http://{host}{port}" for host in hosts)
    raise ConfigError(
        f'the endpoint {endpoint!r} is neither "auto" nor "ipv4" nor "ipv6" nor a URL of an IP '
        f'address such as "{IPV4_ENDPOINT}"'
    )


class MetadataClient:
    """Asks the metadata service; safe to use from many threads.

    Every call raises MetadataUnavailable where it has no document by `deadline`; at once, where
    others have just learned that the service is unreachable (`Outage`).
    """

    def __init__(
        self,
        endpoint: str = "auto",
        timeout_s: float = 1.0,
        *,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raise ConfigError for an endpoint that is none; asks nothing yet."""
        self._timeout_s = timeout_s
        self._wall_clock = wall_clock
        self._services = tuple(_Service(url, self._count) for url in endpoint_urls(endpoint))
        self._answering: _Service | None = None
        self._tokens = _Tokens(self._fetch_token, monotonic)
        self._outage = Outage(5 * timeout_s, monotonic)
        self._lock = threading.Lock()
        self._requests_sent = 0
        self._last_date: tuple[str, float] | None = None

    def close(self) -> None:
        """Close every kept-alive connection."""
        for service in self._services:
            service.close()

    @property
    def requests_sent(self) -> int:
        """How many HTTP requests have left, those for tokens included."""
        return self._requests_sent

    @property
    def clock_offset_s(self) -> float | None:
        """This machine's clock minus the service's Date header, of the last answer that had one."""
        if self._last_date is None:
            return None
        date, received = self._last_date
        try:
            return received - parsedate_to_datetime(date).timestamp()
        except ValueError:  # shaped like a date, and none
            return None

    def instance_id(self, deadline: Deadline) -> str:
        """Give what should be `i-` and hexadecimal digits."""
        return self._text("instance-id/", deadline)

    def availability_zone(self, deadline: Deadline) -> str:
        """Give the name of the zone, which may be a local or a Wavelength zone."""
        return self._text("placement/availability-zone/", deadline)

    def region(self, deadline: Deadline) -> str | None:
        """Give the name of the region, None where the service does not know such a path."""
        path = _META_DATA + "placement/region"
        body = self._get(path, _MAX_TEXT, deadline)
        return None if body is None else _text(body, path)

    def domain(self, deadline: Deadline) -> str:
        """Give the DNS suffix of the partition's services."""
        return self._text("services/domain/", deadline)

    def active_keys(self, user: str, deadline: Deadline) -> bytes | None:
        """Give the key blocks pushed for an OS user, as they are; None where there are none."""
        return self._get(f"{_SSH_KEYS}active-keys/{_segment(user)}/", _MAX_KEYS, deadline)

    def users_with_keys(self, deadline: Deadline) -> tuple[str, ...]:
        """Give the OS users for whom keys are there."""
        path = _SSH_KEYS + "active-keys/"
        body = self._get(path, _MAX_LIST, deadline)
        if body is None or not body.strip():
            return ()
        lines = (_text(line, path) for line in body.splitlines() if line.strip())
        # Elsewhere the service lists what has something below it with a slash.
        return tuple(line.removesuffix("/") for line in lines)

    def signer_chain(self, deadline: Deadline) -> bytes:
        """Give the signer's certificates, PEM."""
        path = _SSH_KEYS + "signer-cert/"
        return _existing(self._get(path, _MAX_CHAIN, deadline), path)

    def staple_names(self, deadline: Deadline) -> tuple[str, ...]:
        """Give the names of the OCSP staples, none where the service has no list of them.

        Raises UntrustedMaterial for a list that no service would have.
        """
        body = self._get(_SSH_KEYS + "signer-ocsp/", _MAX_LIST, deadline) or b""
        names = [name.decode("latin-1") for name in body.split()]
        for name in names:
            if not _STAPLE_NAME.fullmatch(name):
                problem = f"{name[:60]!r} is no name of a staple"
                raise UntrustedMaterial(Reason.NO_VALID_STAPLE, problem)
        if len(names) > _MAX_STAPLES:
            problem = f"{len(names)} staples, more than {_MAX_STAPLES}"
            raise UntrustedMaterial(Reason.NO_VALID_STAPLE, problem)
        return tuple(dict.fromkeys(names))

    def staple(self, name: str, deadline: Deadline) -> bytes:
        """Give a staple as DER; raises UntrustedMaterial where it is no base64."""
        path = f"{_SSH_KEYS}signer-ocsp/{_segment(name)}"
        body = _existing(self._get(path, _MAX_STAPLE, deadline), path)
        try:
            der = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error as error:
            problem = f"staple {name} is no base64: {error}"
            raise UntrustedMaterial(Reason.NO_VALID_STAPLE, problem) from None
        if not der:
            raise UntrustedMaterial(Reason.NO_VALID_STAPLE, f"staple {name} is empty")
        return der

    def _text(self, name: str, deadline: Deadline) -> str:
        path = _META_DATA + name
        return _text(_existing(self._get(path, _MAX_TEXT, deadline), path), path)

    def _get(self, path: str, cap: int, deadline: Deadline) -> bytes | None:
        """Give a document, None for a 404; a token that is refused (401) is renewed once."""
        with self._outage.attempt(deadline):
            token = self._tokens.get(deadline)
            answer = self._ask("GET", path, {_TOKEN_HEADER: token}, cap, deadline)
            if answer.status == 401:
                self._tokens.drop(token)
                token = self._tokens.get(deadline)
                answer = self._ask("GET", path, {_TOKEN_HEADER: token}, cap, deadline)
            return None if answer.status == 404 else answer.document()

    def _fetch_token(self) -> str:
        # Bounded by itself, not by a caller's deadline: others wait for it too.
        deadline = Deadline.after(self._timeout_s * len(self._services))
        header = {_TTL_HEADER: str(_TOKEN_TTL_S)}
        answer = self._ask("PUT", _TOKEN_PATH, header, _MAX_TEXT, deadline)
        return _text(answer.document(), _TOKEN_PATH)

    def _ask(
        self, method: str, path: str, header: dict[str, str], cap: int, deadline: Deadline
    ) -> "_Answer":
        """Ask the endpoint that answers; where none is known, each in turn until one does."""
        problems = []
        unreachable = False
        for service in (self._answering,) if self._answering else self._services:
            try:
                answer = service.ask(method, path, header, cap, deadline.at_most(self._timeout_s))
            except _Broken as broken:
                problems.append(f"{method} {service.url}{path}: {broken}")
                unreachable = broken.silent or broken.late
                if not broken.silent:
                    break
            else:
                self._answering = service
                if answer.date is not None and _IMF_FIXDATE.fullmatch(answer.date):
                    self._last_date = (answer.date, self._wall_clock())
                return answer
        self._answering = None
        kind = MetadataUnreachable if unreachable else MetadataUnavailable
        raise kind("; ".join(problems))

    def _count(self) -> None:
        with self._lock:
            self._requests_sent += 1


def _existing(body: bytes | None, path: str) -> bytes:
    if body is None:
        raise MetadataUnavailable(f"GET {path}: answered 404")
    return body


def _text(body: bytes, path: str) -> str:
    text = body.strip()
    if not text.isascii() or not text or not text.decode("ascii").isprintable():
        raise MetadataUnavailable(f"{path}: {text[:60]!r} is no line of printable ASCII")
    return text.decode("ascii")


def _segment(name: str) -> str:
    """Percent-encode a name as one segment of a path, so that it cannot be another."""
    segment = quote(name.encode("utf-8", "surrogatepass"), safe="@$")
    return segment if segment.strip(".") else segment.replace(".", "%2E")


class Outage:
    """Makes calls fail at once while the service is unreachable, but for one probe at a time.

    It begins with a call that ends in MetadataUnreachable, and ends with the first answer of any
    kind or `window_s` after the last failure. The first probe may leave at once, since one packet
    lost is no outage; one that fails is followed by a pause as long as it took to fail, if that
    was long enough for anybody to mind.
    """

    def __init__(self, window_s: float, monotonic: Callable[[], float]) -> None:
        self._window_s = window_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answered_at = float("-inf")
        self._failed_at: float | None = None
        self._pause_s = 0.0
        self._probing = False

    @contextlib.contextmanager
    def attempt(self, deadline: Deadline) -> Iterator[None]:
        """Hold what calls the service. Raises MetadataUnavailable instead where it may not."""
        begun = self._monotonic()
        is_probe = self._admit(begun)
        try:
            yield
        except MetadataUnavailable as error:
            # A caller in a hurry learns nothing about the service.
            if deadline.remaining():
                self._learn(begun, answered=not isinstance(error, MetadataUnreachable))
            raise
        else:
            self._learn(begun, answered=True)
        finally:
            if is_probe:
                with self._lock:
                    self._probing = False

    def _admit(self, now: float) -> bool:
        """Tell whether this call is the probe; where there is no outage, none is."""
        with self._lock:
            if self._failed_at is None or now - self._failed_at >= self._window_s:
                self._failed_at = None
                return False
            since_s = now - self._failed_at
            if self._probing or since_s < self._pause_s:
                raise MetadataUnavailable(
                    f"the metadata service was unreachable {since_s:.1f} s ago; not asked again yet"
                )
            self._probing = True
            return True

    def _learn(self, begun: float, *, answered: bool) -> None:
        with self._lock:
            now = self._monotonic()
            if answered:
                self._answered_at, self._failed_at = now, None
            elif begun >= self._answered_at:  # nobody has been answered since this call began
                if self._failed_at is None:
                    self._pause_s = 0.0
                elif begun >= self._failed_at:  # else the two failed side by side
                    took_s = now - begun
                    self._pause_s = took_s if took_s >= _SLOW_S else 0.0
                self._failed_at = now


class _Tokens:
    """The token, asked for once by a thread of its own however many callers need it.

    Each caller leaves at its own deadline, and what keeps one waiting keeps nobody else.
    """

    def __init__(self, fetch: Callable[[], str], monotonic: Callable[[], float]) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._token: str | None = None
        self._renew_at = 0.0
        self._coming: futures.Future[str] | None = None

    def get(self, deadline: Deadline) -> str:
        with self._lock:
            if self._token is not None and self._monotonic() < self._renew_at:
                return self._token
            coming = self._coming
            if coming is None:
                coming = futures.Future()
                # No daemon thread would hold up the end of a process that gave up waiting.
                threading.Thread(target=self._renew, args=(coming,), daemon=True).start()
                self._coming = coming
        if not futures.wait([coming], deadline.remaining()).done:
            raise MetadataUnavailable(f"PUT {_TOKEN_PATH}: no token before the deadline")
        return coming.result()

    def drop(self, token: str) -> None:
        """Forget this token, unless another has taken its place already."""
        with self._lock:
            if self._token == token:
                self._token = None

    def _renew(self, coming: "futures.Future[str]") -> None:
        asked = self._monotonic()
        try:
            token = self._fetch()
        except Exception as error:  # noqa: BLE001 - not swallowed: every caller raises it
            with self._lock:
                self._coming = None
            coming.set_exception(error)
        else:
            with self._lock:
                self._coming = None
                self._token = token
                self._renew_at = asked + _TOKEN_TTL_S - _TOKEN_MARGIN_S
            coming.set_result(token)


@dataclass(frozen=True, slots=True)
class _Answer:
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


class _Broken(Exception):
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


class _Service(HTTPAdapter):
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
    ) -> _Answer:
        """Give the whole answer, with at most `cap` bytes of body. Raises _Broken."""
        request = requests.PreparedRequest()
        request.method = method
        # Not prepare(): it resolves dot segments and undoes percent-encoding.
        request.url = self.url + path
        request.headers = CaseInsensitiveDict(_HEADERS | header)
        try:
            return self._exchange(request, cap, deadline)
        except _Broken as broken:
            if not broken.stale:
                raise
        return self._exchange(request, cap, deadline)

    def _exchange(self, request: requests.PreparedRequest, cap: int, deadline: Deadline) -> _Answer:
        left = deadline.remaining()
        if not left:
            raise _Broken("no time left to ask", silent=True, late=True)
        try:
            with self.send(request, stream=True, timeout=left) as response:
                body = _read(response.raw, cap)
        except (requests.RequestException, HTTPError) as error:
            raise _Broken(f"the answer is no proper HTTP: {_printable(error)}") from error
        return _Answer(
            f"{request.method} {request.url}",
            response.status_code,
            body,
            response.raw.headers.get("Date"),
        )

    def close(self) -> None:
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
                raise _Broken(f"answered {raw.status} with more than {cap} bytes")
    except ValueError as error:  # a negative chunk size
        raise _Broken(f"answered with an impossible length: {_printable(error)}") from error
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
            raise _Broken(f"{error.strerror}, nothing sent", silent=True) from error
        try:
            sock.expect_answer(self._deadline, reused=False)
            sock.connect((self.host, self.port))
        except _Broken:
            sock.close()
            raise
        self.sock = sock

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 has it
        sock = self.sock
        try:
            response = super().getresponse()
        except http.client.HTTPException as error:
            raise _Broken(f"the answer is no proper HTTP: {_printable(error)}") from error
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
            raise _Broken(f"answered with more than {_MAX_WIRE} bytes")
        return count

    def _limit(self) -> None:
        left = self._deadline.remaining()
        if not left:
            raise TimeoutError
        self.settimeout(left)

    def _broken(self, error: OSError) -> _Broken:
        late = isinstance(error, TimeoutError)
        problem = (
            f"out of time after {self._allotted_s:.2g} s" if late else error.strerror or str(error)
        )
        if self._received:
            return _Broken(f"{problem}, with {self._received} bytes of the answer", late=late)
        closed = isinstance(error, ConnectionResetError)
        return _Broken(
            f"{problem}, with no answer", silent=True, late=late, stale=closed and self._reused
        )

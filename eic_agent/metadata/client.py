"""The metadata service, IMDSv2 only: what can be asked, and what an answer may hold.

Whatever goes wrong between asking and having a document is MetadataUnavailable, which says what was
asked and what came back. What a document says is not believed here, only bounded and decoded.
"""

import base64
import binascii
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from eic_agent.errors import MetadataUnavailable, MetadataUnreachable, Reason, UntrustedMaterial
from eic_agent.metadata.deadline import Deadline
from eic_agent.metadata.endpoints import endpoint_addresses
from eic_agent.metadata.exchange import Answer, Service
from eic_agent.metadata.outage import Outage
from eic_agent.metadata.tokens import TOKEN_PATH, TOKEN_TTL_S, Tokens

_META_DATA = "/latest/meta-data/"
_SSH_KEYS = _META_DATA + "managed-ssh-keys/"
_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"

# Most bytes of a document, after decompression.
_MAX_TEXT = 1024
_MAX_LIST = 65536
_MAX_KEYS = 32 * 8192  # as many keys, each the longest that the API takes, by the longest caller
_MAX_CHAIN = 65536
_MAX_STAPLE = 65536
_MAX_STAPLES = 16
# Before a request is sent again; each is varied by half of itself, so that many callers do not
# come back at the same moment.
_PAUSES_S = (0.05, 0.1, 0.2, 0.3, 0.5)
# While the service is out, a login may be refused that long after it is back.
_LONGEST_PAUSE_S = 1.0
_STAPLE_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9._-]{1,128}", re.ASCII)
_IMF_FIXDATE = re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)  # RFC 9110 5.6.7


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
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Raise ConfigError for an endpoint that is none; asks nothing yet.

        A request waits `timeout_s` for its answer, connecting included, before it counts as lost.
        `jitter` gives numbers from 0 to 1.
        """
        self._timeout_s = timeout_s
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._service = Service(endpoint_addresses(endpoint), self._count)
        self._tokens = Tokens(self._fetch_token, monotonic)
        self._outage = Outage(min(timeout_s, _LONGEST_PAUSE_S), monotonic)
        self._lock = threading.Lock()
        self._requests_sent = 0
        self._last_date: tuple[str, float] | None = None

    def close(self) -> None:
        """Close every kept-alive connection; calls go on, each over a connection of its own."""
        self._service.close()

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
        """Give a document, None for a 404; asks again while that may help and there is time.

        Asking again is harmless, since all we send is idempotent (RFC 9110 9.2.2). It also goes for
        an answer that was cut off: what came is thrown away, and packets are lost there as well.
        """
        with self._outage.attempt(deadline):
            problems: list[str] = []
            for pause_s in self._pauses():
                try:
                    return self._get_once(path, cap, deadline)
                except MetadataUnreachable as error:
                    problems.append(str(error))
                    if deadline.remaining() <= pause_s:
                        break
                time.sleep(pause_s)
            raise MetadataUnreachable(_summed_up(problems))

    def _pauses(self) -> Iterator[float]:
        """Give the pause after each attempt; the one after the last is longer than any deadline."""
        for pause_s in _PAUSES_S:
            yield pause_s * (0.5 + self._jitter())
        yield math.inf

    def _get_once(self, path: str, cap: int, deadline: Deadline) -> bytes | None:
        """Ask once; a token that is refused (401) is renewed, once."""
        token = self._tokens.get(deadline)
        answer = self._ask("GET", path, {_TOKEN_HEADER: token}, cap, deadline)
        if answer.status == 401:
            self._tokens.drop(token)
            token = self._tokens.get(deadline)
            answer = self._ask("GET", path, {_TOKEN_HEADER: token}, cap, deadline)
        return None if answer.status == 404 else answer.document()

    def _fetch_token(self) -> str:
        # Bounded by itself, not by a caller's deadline: others wait for it too.
        header = {_TTL_HEADER: str(TOKEN_TTL_S)}
        deadline = Deadline.after(self._timeout_s)
        return _text(
            self._ask("PUT", TOKEN_PATH, header, _MAX_TEXT, deadline).document(), TOKEN_PATH
        )

    def _ask(
        self, method: str, path: str, header: dict[str, str], cap: int, deadline: Deadline
    ) -> Answer:
        until = deadline.at_most(self._timeout_s)
        answer = self._service.ask(method, path, header, cap, until)
        if answer.date is not None and _IMF_FIXDATE.fullmatch(answer.date):
            self._last_date = (answer.date, self._wall_clock())
        return answer

    def _count(self) -> None:
        with self._lock:
            self._requests_sent += 1


def _summed_up(problems: list[str]) -> str:
    first, last = problems[0], problems[-1]
    if len(problems) == 1:
        return first
    also = f"; the last: {last}" if last != first else ""
    return f"{first} ({len(problems)} attempts{also})"


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

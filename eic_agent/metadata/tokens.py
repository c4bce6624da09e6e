"""The token of IMDSv2, got once for everybody who needs it."""

import threading
from collections.abc import Callable
from concurrent import futures

from eic_agent.errors import MetadataUnreachable
from eic_agent.metadata.deadline import Deadline

TOKEN_PATH = "/latest/api/token"  # noqa: S105 - where tokens are made
TOKEN_TTL_S = 21600
_MARGIN_S = 60


class Tokens:
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
        """Give a token that is good for a while; raises MetadataUnavailable."""
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
            raise MetadataUnreachable(f"PUT {TOKEN_PATH}: no token before the deadline")
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
                self._renew_at = asked + TOKEN_TTL_S - _MARGIN_S
            coming.set_result(token)

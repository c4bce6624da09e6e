"""A row of the audit, and the ledger that keeps rows in order until their end is known."""

import json
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

from eic_agent.reports.evidence import Moment, Origin

# What a row is about; the schema in docs/audit.schema.json says more of each.
LOGIN, OTHER_LOGIN = "login", "other-login"
REFUSED, UNDECIDED, UNPROVED = "refused", "undecided", "unproved"

_IN_MEMORY = 16 << 20


@dataclass(slots=True)
class Row:
    """One login, or one key that did not become one.

    `moment` is when sshd accepted it, or when the agent decided. `end` is closed, reboot, open or
    unknown; `ended` is there for the first only.
    """

    kind: str
    moment: Moment
    origin: Origin
    pid: int
    user: str
    method: str = ""
    address: str = ""
    port: int = 0
    fingerprint: str = ""
    certificate: str = ""
    principal: str = ""
    request: str = ""
    instance: str = ""
    session: str = ""
    audit_session: str = ""
    reason: str = ""
    detail: str = ""
    times: int = 1
    late_s: float = 0.0
    end: str = ""
    ended: Moment | None = None
    place: int = -1

    def data(self) -> dict[str, Any]:
        """Give the row as JSON has it: what is not known is null, times are UTC."""
        ended = self.ended
        lasted_us = ended and max(ended.monotonic_us - self.moment.monotonic_us, 0)
        return {
            "kind": self.kind,
            "time": utc(self.moment.realtime_us),
            "host": self.origin.host or None,
            "machine": self.origin.machine or None,
            "boot": self.moment.boot or None,
            "pid": self.pid,
            "user": self.user or None,
            "method": self.method or None,
            "address": self.address or None,
            "port": self.port or None,
            "fingerprint": self.fingerprint or None,
            "certificate": self.certificate or None,
            "principal": self.principal or None,
            "request": self.request or None,
            "instance": self.instance or None,
            "session": self.session or None,
            "audit_session": self.audit_session or None,
            "reason": self.reason or None,
            "detail": self.detail or None,
            "times": self.times,
            "late_s": self.late_s,
            "end": self.end or None,
            "ended": utc(ended.realtime_us) if ended else None,
            "lasted_s": None if lasted_us is None else lasted_us / 1e6,
        }


def utc(realtime_us: int) -> str:
    """Write microseconds since the epoch as ISO 8601 in UTC."""
    seconds, micro = divmod(realtime_us, 1_000_000)
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return "9999-12-31T23:59:59.999999Z"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{micro:06d}Z"


class Ledger(Protocol):
    """Who takes rows as they come to be known."""

    def begin(self, row: Row) -> None:
        """Take a row in its place; more of it may become known."""

    def explained(self, row: Row) -> None:
        """Learn that a row that had begun turned out to be a login through Instance Connect."""

    def done(self, row: Row) -> None:
        """Learn that no more will become known of a row that had begun."""


class Spool:
    """Rows in the order in which they began, in a file without a name once they are many."""

    def __init__(self, wanted: Callable[[Row], bool]) -> None:
        """Keep what is `wanted` once it is done."""
        self._wanted = wanted
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # closed by `close`
        self._offsets = array("q")
        self.empty = True

    def begin(self, row: Row) -> None:
        """Take a row in its place."""
        row.place = len(self._offsets)
        self._offsets.append(-1)

    def explained(self, row: Row) -> None:
        """Wait for its end."""

    def done(self, row: Row) -> None:
        """Keep a row."""
        if self._wanted(row):
            self.empty = False
            self._offsets[row.place] = self._file.tell()
            self._file.write(json.dumps(row.data()).encode() + b"\n")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give the data of all rows that were kept."""
        for offset in self._offsets:
            if offset >= 0:
                self._file.seek(offset)
                data: dict[str, Any] = json.loads(self._file.readline())
                yield data

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

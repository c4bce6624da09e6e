"""What an entry says: every field of it in journald's names, escaped."""

import re
from dataclasses import dataclass

from eic_agent.errors import Reason

# Constants of this project, `journalctl MESSAGE_ID=...`; the catalog explains each.
MESSAGE_ID_GRANTED = "90f2168c94cd4cb0b84a6bce5413711b"
MESSAGE_ID_REFUSED = "2f091a513c8243af9f237ca9205367a4"
MESSAGE_ID_PROBLEM = "40782ec6b740455abd12eb06e2c6a390"
MESSAGE_ID_UNDELIVERED = "5d2e1a4c9b7f4c60a1f3e2d4b6c8a097"

# syslog(3): severities, and the facility for security messages, LOG_AUTHPRIV
WARNING, NOTICE, INFO, DEBUG = 4, 5, 6, 7
_FACILITY_AUTHPRIV = 10

_MAX_LENGTH = 2048  # above IAM's longest principal, so that no caller is ever cut
_NOT_PRINTABLE_ASCII = re.compile(r"[^ -~]")

# A field's name and its value, as journald has them (systemd.journal-fields(7)).
Fields = dict[str, str]


def escape(text: str) -> str:
    r"""Make text safe in a log and on a terminal: a line of printable ASCII, 2048 at most.

    Every other character is shown as `\xNN`, `\uNNNN` or `\UNNNNNNNN`; text too long is cut, and
    says so. Made for reading: a backslash stays as it is, so escaping twice changes nothing more.
    """
    shown = _NOT_PRINTABLE_ASCII.sub(_code_point, text[: _MAX_LENGTH + 1])
    if len(shown) <= _MAX_LENGTH:
        return shown
    cut = f"... ({len(text)} characters)"
    return shown[: _MAX_LENGTH - len(cut)] + cut


def _code_point(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def entry(
    message: str, priority: int, message_id: str | None = None, **own: str | int | None
) -> Fields:
    """Give the fields of an entry; each of `own` that is not None becomes EIC_<NAME>."""
    fields = {
        "MESSAGE": escape(message),
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "eic-agent",
        "SYSLOG_FACILITY": str(_FACILITY_AUTHPRIV),
    }
    if message_id is not None:
        fields["MESSAGE_ID"] = message_id
    for name, value in own.items():
        if value is not None:
            fields[f"EIC_{name.upper()}"] = escape(str(value))
    return fields


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one key, for whom and why.

    Caller and request are None until the signature over them is verified. `expires` is in seconds
    since the epoch, and so is `decided_at`; `latency_us` in microseconds since the lookup arrived.
    `client_pid` and `client_uid` are the socket's peer by the kernel's word, None without a socket;
    `sshd_pid` is what the client says.
    """

    granted: bool
    reason: Reason | None
    detail: str
    user: str
    fingerprint: str | None
    caller: str | None
    request: str | None
    instance: str | None
    expires: int | None
    latency_us: int
    sshd_pid: int | None
    client_pid: int | None
    client_uid: int | None
    decided_at: float

    @property
    def same(self) -> tuple[object, ...]:
        """What decisions have in common for which one late entry is enough."""
        return self.user, self.fingerprint, self.request, self.client_uid

    def __str__(self) -> str:
        key = self.fingerprint or "a key"
        if self.granted:
            caller = f" to {self.caller}" if self.caller else ""
            request = f" (request {self.request})" if self.request else ""
            return f"granted {key} for {self.user}{caller}{request}"
        caller = f", pushed by {self.caller}" if self.caller else ""
        reason = f": {self.reason.value}" if self.reason else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"refused {key} for {self.user}{caller}{reason}{detail}"

    def entry(self) -> Fields:
        """Give the one entry for it: granted at info, refused at notice, an attack as a warning."""
        if self.granted:
            return entry(
                str(self), INFO, MESSAGE_ID_GRANTED, decision="granted", **self._circumstances()
            )
        reason = self.reason.value if self.reason else None
        return entry(
            str(self),
            WARNING if self.reason is Reason.REPLAYED_BLOCK else NOTICE,
            MESSAGE_ID_REFUSED,
            decision="refused",
            reason=reason,
            **self._circumstances(),
        )

    def undelivered_entry(self) -> Fields:
        """Give the second entry for a grant that sshd did not take."""
        key = self.fingerprint or "a key"
        message = f"not delivered: {key} for {self.user} was granted, but sshd did not take it"
        return entry(
            message, NOTICE, MESSAGE_ID_UNDELIVERED, undelivered=1, **self._circumstances()
        )

    def _circumstances(self) -> dict[str, str | int | None]:
        return {
            "user": self.user,
            "fingerprint": self.fingerprint,
            "caller": self.caller,
            "request": self.request,
            "instance": self.instance,
            "expires": self.expires,
            "latency_us": self.latency_us,
            "sshd_pid": self.sshd_pid,
            "client_pid": self.client_pid,
            "client_uid": self.client_uid,
        }

"""What of the journal is believed, and what it says: one entry in, one event out.

Any local user can write entries with any text and any field, but for those whose name begins with
an underscore: journald writes these itself, from what the kernel says of the sender's process
(systemd.journal-fields(7)). Only they decide here; docs/audit.md says why each holds.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

# An entry as journalctl exports it; no field twice, or it is left out.
Fields = Mapping[bytes, bytes]

_ROOT = b"0"
_AGENT, _AGENT_UNIT = b"eic-agent", b"eic-agent.service"
_SSHD = (b"sshd", b"sshd-session")
_SSHD_UNIT = re.compile(rb"sshd?(?:-[\w-]+)?(?:@.*)?\.service")
_LOGIND_UNIT = b"systemd-logind.service"
# sd-messages.h: SD_MESSAGE_SESSION_START, _STOP and SD_MESSAGE_JOURNAL_DROPPED
_SESSION_START = b"8d45620c1a4348dbb17410da57c60c66"
_SESSION_STOP = b"3354939424b4456d9802ca8333ed424a"
_JOURNAL_DROPPED = b"a596d6fe7bfa4994828e72309e95d61e"

# What `event` reads; journalctl is asked for no other field.
FIELDS = (
    *("_BOOT_ID", "_PID", "_UID", "_EXE", "_SYSTEMD_UNIT", "_TRANSPORT"),
    *("_MACHINE_ID", "_HOSTNAME", "SYSLOG_IDENTIFIER", "MESSAGE", "MESSAGE_ID"),
    *("EIC_DECISION", "EIC_REASON", "EIC_USER", "EIC_FINGERPRINT", "EIC_CALLER", "EIC_REQUEST"),
    *("EIC_INSTANCE", "EIC_SSHD_PID", "EIC_LATE", "EIC_UNDELIVERED", "EIC_DROPPED", "EIC_LOST"),
    *("SESSION_ID", "LEADER", "_AUDIT_SESSION"),
)


def matches(agent_uids: Collection[int], pids: Collection[int] = ()) -> list[str]:
    """Give journalctl's arguments that select what may be believed; `event` checks all of it again.

    Nothing else is ever read, so what others write costs nothing, however much it is. With `pids`
    only what is about these sshd processes.
    """
    agent = ["SYSLOG_IDENTIFIER=eic-agent", *(f"EIC_SSHD_PID={pid}" for pid in pids)]
    uids = [f"_UID={uid}" for uid in sorted({0, *agent_uids})]
    sshd = ["SYSLOG_IDENTIFIER=sshd", "SYSLOG_IDENTIFIER=sshd-session"]
    logind = [f"MESSAGE_ID={kind.decode()}" for kind in (_SESSION_START, _SESSION_STOP)]
    alternatives = [
        [*agent, "_SYSTEMD_UNIT=eic-agent.service"],
        [*agent, *uids],
        [*sshd, "_TRANSPORT=syslog", "_UID=0", *(f"_PID={pid}" for pid in pids)],
        [*logind, "_SYSTEMD_UNIT=systemd-logind.service", "_UID=0"]
        + [f"LEADER={pid}" for pid in pids],
        ["_TRANSPORT=driver", f"MESSAGE_ID={_JOURNAL_DROPPED.decode()}"],
    ]
    return [word for one in alternatives for word in (*one, "+")][:-1]


class Moment(NamedTuple):
    """When journald took an entry, in microseconds: since the epoch, and since this boot began."""

    boot: str
    monotonic_us: int
    realtime_us: int


class Origin(NamedTuple):
    """The machine that an entry was written on: its machine id, and its name then."""

    machine: str
    host: str


class Decided(NamedTuple):
    """The agent, or its fallback, about one key.

    `what` is granted, refused, undecided or undelivered; `late_us` is how long after the decision
    the entry was written; `pid` that of the sshd process that asked.
    """

    what: str
    pid: int
    user: str
    fingerprint: str
    caller: str
    request: str
    instance: str
    reason: str
    message: str
    late_us: int


class Accepted(NamedTuple):
    """A line of sshd's that a method of authentication succeeded; the last one if not `partial`."""

    pid: int
    partial: bool
    method: str
    user: str
    address: str
    port: int
    fingerprint: str = ""
    certificate: str = ""  # its key id, serial number and CA, as sshd writes them


class Ended(NamedTuple):
    """The process or its session ended; or it only said where its peer is (`over` is false)."""

    pid: int
    over: bool = True
    address: str = ""
    port: int = 0


class SessionStarted(NamedTuple):
    """A session of this process began, with logind's id or the kernel's audit session id for it."""

    pid: int
    session: str = ""
    audit_session: str = ""


class Lost(NamedTuple):
    """Entries that should be here are not."""

    text: str


Event = Decided | Accepted | Ended | SessionStarted | Lost


class Believer:
    """Says which entries are believed, on whichever machine they were written."""

    def __init__(self, agent_uids: Collection[tuple[str, int]]) -> None:
        """`agent_uids` are machine id ("" for any) and user id of each user eic-agent."""
        self._agents = {(m.encode(), str(uid).encode()) for m, uid in agent_uids}

    def event(self, entry: Fields) -> Event | None:
        """Give what an entry says, if it is believed and says something."""
        identifier = entry.get(b"SYSLOG_IDENTIFIER")
        if identifier in _SSHD:
            return _by_sshd(entry) if _is_sshd(entry) else None
        if identifier == _AGENT:
            return _by_agent(entry) if self._is_agent(entry) else None
        if entry.get(b"_TRANSPORT") == b"driver":
            if entry.get(b"MESSAGE_ID") == _JOURNAL_DROPPED:
                return Lost("journald: " + text(entry, b"MESSAGE"))
        elif entry.get(b"_SYSTEMD_UNIT") == _LOGIND_UNIT and entry.get(b"_UID") == _ROOT:
            return _by_logind(entry)
        return None

    def _is_agent(self, entry: Fields) -> bool:
        uid = entry.get(b"_UID", b"")
        return (
            entry.get(b"_SYSTEMD_UNIT") == _AGENT_UNIT
            or uid == _ROOT
            or (b"", uid) in self._agents
            or (entry.get(b"_MACHINE_ID", b""), uid) in self._agents
        )


def moment(entry: Fields) -> Moment:
    """Give when an entry was written."""
    return Moment(
        text(entry, b"_BOOT_ID"),
        _number(entry, b"__MONOTONIC_TIMESTAMP"),
        _number(entry, b"__REALTIME_TIMESTAMP"),
    )


class Origins:
    """Says where entries were written; machines are few."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes | None, bytes | None], Origin] = {}

    def __call__(self, entry: Fields) -> Origin:
        """Give where an entry was written."""
        key = (entry.get(b"_MACHINE_ID"), entry.get(b"_HOSTNAME"))
        origin = self._known.get(key)
        if origin is None:
            origin = Origin(text(entry, b"_MACHINE_ID"), text(entry, b"_HOSTNAME"))
            self._known[key] = origin
        return origin


def text(entry: Fields, name: bytes) -> str:
    """Give a field's text; empty where it is missing."""
    return entry.get(name, b"").decode("utf-8", "backslashreplace")


def _number(entry: Fields, name: bytes) -> int:
    value = entry.get(name, b"")
    return int(value) if value.isdigit() and len(value) < 20 else 0


def _is_sshd(entry: Fields) -> bool:
    """Whether root's sshd wrote it.

    The user id is the kernel's for every sender. The program may be unknown, where the process was
    gone before journald looked; one that is known must be sshd.
    """
    if entry.get(b"_UID") != _ROOT or entry.get(b"_TRANSPORT") != b"syslog":
        return False
    program = entry.get(b"_EXE")
    if program is not None:
        return program.rpartition(b"/")[2] in _SSHD
    unit = entry.get(b"_SYSTEMD_UNIT")
    # A session's own scope is where its last line comes from.
    return unit is None or unit.startswith(b"session-") or bool(_SSHD_UNIT.fullmatch(unit))


def _by_agent(entry: Fields) -> Event | None:
    what = text(entry, b"EIC_DECISION")
    if b"EIC_UNDELIVERED" in entry:
        what = "undelivered"
    elif not what and b"EIC_USER" in entry and b"EIC_REASON" in entry:
        what = "undecided"
    if what not in ("granted", "refused", "undecided", "undelivered"):
        if b"EIC_DROPPED" in entry or b"EIC_LOST" in entry:
            return Lost("eic-agent: " + text(entry, b"MESSAGE"))
        return None
    return Decided(
        what,
        _number(entry, b"EIC_SSHD_PID"),
        text(entry, b"EIC_USER"),
        text(entry, b"EIC_FINGERPRINT"),
        text(entry, b"EIC_CALLER"),
        text(entry, b"EIC_REQUEST"),
        text(entry, b"EIC_INSTANCE"),
        text(entry, b"EIC_REASON"),
        text(entry, b"MESSAGE"),
        _seconds_us(text(entry, b"EIC_LATE")),
    )


def _seconds_us(seconds: str) -> int:
    return round(float(seconds) * 1e6) if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", seconds) else 0


_ACCEPTED = re.compile(
    r"(?P<how>Accepted|Partial) (?P<method>\S+) for (?P<user>.+?) from (?P<address>\S+) "
    r"port (?P<port>\d{1,5}) ssh2(?:: \S+ (?P<fingerprint>[A-Z0-9]+:\S+)"
    r"(?: (?P<certificate>ID .*))?)?"
)
# Names in these are what a stranger typed, so they are read from that end where sshd has its own.
_FROM = re.compile(r"(?:(?<= from )|(?<= ))(\S+) port (\d{1,5})(?: \[preauth\])?$")
_FAILED_FROM = re.compile(r"^Failed .* from (\S+) port (\d{1,5}) ssh2")
_DISCONNECT_FROM = re.compile(r"^(?:Received disconnect|Connection) from (\S+) port (\d{1,5})\b")
_LEFT = ("Connection closed by ", "Connection reset by ", "Disconnected from ")
_SESSION = re.compile(r"pam_\w+\([^)]*:session\): session (opened|closed) for user ")


def _by_sshd(entry: Fields) -> Event | None:
    line, pid = text(entry, b"MESSAGE"), _number(entry, b"_PID")
    if line.startswith("pam_"):
        session = _SESSION.match(line)
        if session is None:
            return None
        if session[1] == "closed":
            return Ended(pid)
        return SessionStarted(pid, audit_session=text(entry, b"_AUDIT_SESSION"))
    if line.startswith(("Accepted ", "Partial ")):
        said = _ACCEPTED.match(line)
        if said is None:
            return None
        return Accepted(
            pid,
            said["how"] == "Partial",
            said["method"],
            said["user"],
            said["address"],
            int(said["port"]),
            said["fingerprint"] or "",
            said["certificate"] or "",
        )
    peer = _DISCONNECT_FROM.match(line) or _FAILED_FROM.match(line) or _FROM.search(line)
    over = line.startswith(_LEFT)
    if peer is None:
        return Ended(pid) if over else None
    return Ended(pid, over, peer[1], int(peer[2]))


def _by_logind(entry: Fields) -> Event | None:
    leader = _number(entry, b"LEADER")
    if entry.get(b"MESSAGE_ID") == _SESSION_START:
        return SessionStarted(leader, text(entry, b"SESSION_ID"))
    return Ended(leader) if entry.get(b"MESSAGE_ID") == _SESSION_STOP else None

"""When a login is one through Instance Connect: sshd accepted the key that it was told of.

A grant of ours and a login are of one sshd process, which the caller sees to. They are joined here
by the key's fingerprint, where the client took the answer, sshd accepted that very key (not a
certificate of it) and did so within minutes.
"""

from dataclasses import dataclass, field

from eic_agent.reports import rows
from eic_agent.reports.evidence import Accepted, Decided, Moment, Origin
from eic_agent.reports.rows import Row

# How long after sshd was told of a key it may accept it (LoginGraceTime is 2 minutes by default),
# and how long a process that says no more is remembered.
PATIENCE_US = 600_000_000


@dataclass(slots=True)
class Grant:
    """A key that sshd was told of, and the row that it is if no login comes of it."""

    row: Row
    delivered: int = 1


@dataclass(slots=True)
class Pending:
    """An sshd process that has accepted nobody yet."""

    touched_us: int
    grants: dict[str, Grant] = field(default_factory=dict)
    refused: dict[tuple[str, str], Row] = field(default_factory=dict)
    partial: list[Accepted] = field(default_factory=list)
    address: str = ""
    port: int = 0


def decided_row(kind: str, event: Decided, moment: Moment, origin: Origin) -> Row:
    """Give the row of what the agent decided, at the time when it did; it may be written later."""
    decided = Moment(
        moment.boot,
        monotonic_us=moment.monotonic_us - event.late_us,
        realtime_us=moment.realtime_us - event.late_us,
    )
    return Row(
        kind,
        decided,
        origin,
        event.pid,
        event.user,
        fingerprint=event.fingerprint,
        principal=event.caller,
        request=event.request,
        instance=event.instance,
        reason=event.reason,
        detail=event.message if kind != rows.UNPROVED else "",
        late_s=event.late_us / 1e6,
    )


def name_proved_key(row: Row, pending: Pending) -> None:
    """Name the key that was proved before another method was asked for.

    sshd logs such steps at LogLevel VERBOSE.
    """
    for proved in pending.partial:
        if proved.fingerprint and not proved.certificate:
            row.fingerprint = proved.fingerprint
            row.method = f"{proved.method},{row.method}"
            return


def is_accepted(grant: Grant, row: Row, event: Accepted) -> bool:
    """Whether sshd accepted that key since it was told of it."""
    waited_us = row.moment.monotonic_us - grant.row.moment.monotonic_us
    is_key = row.method.startswith("publickey") and not event.certificate
    return is_key and grant.delivered > 0 and waited_us <= PATIENCE_US


def explains(event: Decided, login: Row) -> bool:
    """Whether a grant that the journal had after the login is of the key that logged in."""
    return (
        login.kind == rows.OTHER_LOGIN
        and login.method.startswith("publickey")
        and not login.certificate
        and login.fingerprint == event.fingerprint
    )


def join(login: Row, grant: "Row | Decided") -> None:
    """Say by whom the key of a login was pushed. sshd's own name for the user is the account's."""
    login.kind = rows.LOGIN
    login.user = grant.user
    login.request = grant.request
    login.instance = grant.instance
    if isinstance(grant, Decided):
        login.principal, login.late_s = grant.caller, grant.late_us / 1e6
    else:
        login.principal, login.late_s = grant.principal, grant.late_s

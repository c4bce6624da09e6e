"""`eic-agent whoami`: the IAM principal of a session, by the kernel's word and the journal's.

Of the processes that one descends from, the nearest of root's that sshd's line and our grant name,
and that ran before it was written, is the session's sshd. Names and environment prove nothing.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

from eic_agent.errors import EicAgentError
from eic_agent.journal.entries import escape
from eic_agent.reports import evidence, journalctl, processes, rows
from eic_agent.reports.logins import Logins
from eic_agent.reports.processes import Process
from eic_agent.reports.rows import Row

_TICK_S = 1.0  # the kernel counts starts in ticks, journald in microseconds


class Unknown(EicAgentError):
    """There is no principal, or nobody knows; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that came through Instance Connect."""

    login: Row
    auid: str
    audit_session: str

    def data(self) -> dict[str, Any]:
        """Give it as JSON has it: the row of the audit, and what auditd calls it."""
        return self.login.data() | {
            "auid": self.auid or None,
            "audit_session": self.audit_session or None,
        }

    def text(self) -> str:
        """Give it for people, the principal in a line of its own."""
        login = self.login
        address = f"[{login.address}]" if ":" in login.address else login.address
        audit = f"auid={self.auid} ses={self.audit_session}" if self.audit_session else "none"
        shown = (
            login.principal or "a push without caller",
            f"    as {login.user} from {address}:{login.port}, pid {login.pid}",
            f"    since {rows.utc(login.moment.realtime_us)}",
            f"    request {login.request or 'unknown'}",
            f"    key {login.fingerprint}",
            f"    audit {audit}",
        )
        return "\n".join(map(escape, shown))


class _List:
    """A ledger in memory, for few rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def begin(self, row: Row) -> None:
        """Keep it."""
        self.rows.append(row)

    def explained(self, row: Row) -> None:
        """Nothing: it is kept already."""

    def done(self, row: Row) -> None:
        """Nothing: it is kept already."""


def find(pid: int, agent_uid: int | None) -> Session:
    """Give the session that a process runs in. Raises Unknown, and NoJournal."""
    line = processes.ancestors(pid)
    if not line:
        raise Unknown(f"there is no process {pid}, or it may not be seen")
    roots = [process for process in line if process.uid == 0]
    if not roots:
        raise Unknown("none of the processes that this one descends from is root's sshd")
    logins = _logins(roots, agent_uid)
    auid, audit_session = processes.audit_ids(pid)
    for process in roots:
        login = logins.get(process.pid)
        if login is None:
            continue
        if login.kind == rows.LOGIN:
            return Session(login, auid, audit_session)
        how = "a certificate" if login.certificate else login.method
        raise Unknown(f"this session did not come through Instance Connect, but by {how}")
    raise Unknown(
        "the journal knows no login of the processes that this one descends from; "
        + (f"ausearch --session {audit_session} may" if audit_session else "nor does the kernel")
    )


def _logins(candidates: list[Process], agent_uid: int | None) -> dict[int, Row]:
    """Give the login of each of these processes that the journal knows one of."""
    ledger = _List()
    logins = Logins(ledger)
    uids = set() if agent_uid is None else {agent_uid}
    believer, origins = evidence.Believer({("", uid) for uid in uids}), evidence.Origins()
    selection = evidence.matches(uids, {process.pid for process in candidates})
    with journalctl.exported("--boot", *selection) as stream:
        for entry in journalctl.entries(stream):
            event = believer.event(entry)
            if event is not None:
                logins.take(event, evidence.moment(entry), origins(entry))
    started = {process.pid: process.started_s for process in candidates}
    logins.finish(lambda _boot, pid: pid in started)
    found = {}
    for row in ledger.rows:
        if row.end == "open" and row.kind in (rows.LOGIN, rows.OTHER_LOGIN):
            # A process that began later has the id of one whose end was not logged.
            with contextlib.suppress(KeyError):
                if started[row.pid] <= row.moment.monotonic_us / 1e6 + _TICK_S:
                    found[row.pid] = row
    return found

"""Joins what the agent decided with what sshd accepted: who came in, as whom, how long.

A login through Instance Connect is a grant of ours and sshd's line that it accepted that key, of
one process in one boot, within minutes; grants.py has that rule. Processes are told apart by boot
and process id, time within a boot is what does not step, and a process id that comes back is
another process: sshd asks for keys before it accepts one, never after.

Memory is bounded: of processes whose end is never told only the latest are remembered.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from eic_agent.reports import rows
from eic_agent.reports.evidence import (
    Accepted,
    Decided,
    Ended,
    Event,
    Moment,
    Origin,
    SessionStarted,
)
from eic_agent.reports.grants import (
    PATIENCE_US,
    Grant,
    Pending,
    decided_row,
    explains,
    is_accepted,
    join,
    name_proved_key,
)
from eic_agent.reports.rows import Ledger, Row

# Entries of two processes come over two sockets: journald may take the later one first.
_OUT_OF_ORDER_US = 10_000_000
# How long a login is kept for a grant that was written late, as the journal took nothing.
_LATE_US = 3600_000_000
_MOST_PENDING, _MOST_SESSIONS, _MOST_LATELY = 5_000, 20_000, 5_000
_MOST_REFUSED = 20  # reasons and keys of one process


@dataclass(slots=True)
class _Boot:
    """One boot of one machine, its processes by id; the dictionaries are in order of time."""

    machine: str
    pending: "OrderedDict[int, Pending]" = field(default_factory=OrderedDict)
    sessions: "OrderedDict[int, Row]" = field(default_factory=OrderedDict)
    lately: "OrderedDict[int, Row]" = field(default_factory=OrderedDict)


class Logins:
    """Takes events in the journal's order, and tells a ledger of rows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._boots: dict[str, _Boot] = {}
        self._latest: dict[str, str] = {}  # the boot of each machine that was heard of last
        self.lost: list[str] = []
        self.instances: set[str] = set()  # that the agent's entries name
        self.first_us = self.last_us = 0  # of all that was taken, since the epoch

    def take(self, event: Event, moment: Moment, origin: Origin) -> None:
        """Take the next event."""
        boot = self._boots.get(moment.boot)
        if boot is None:
            boot = self._boots[moment.boot] = _Boot(origin.machine)
        self._latest[origin.machine] = moment.boot
        self.first_us = self.first_us or moment.realtime_us
        self.last_us = moment.realtime_us
        if isinstance(event, Decided):
            if event.instance and len(self.instances) < _MOST_PENDING:
                self.instances.add(event.instance)
            if event.what == "granted":
                self._granted(boot, event, moment, origin)
            else:
                self._not_granted(boot, event, moment, origin)
        elif isinstance(event, Accepted):
            if event.partial:
                partial = self._pending(boot, event.pid, moment).partial
                partial[_MOST_REFUSED:] = [event]
            else:
                self._accepted(boot, event, moment, origin)
        elif isinstance(event, Ended):
            self._heard(boot, event, moment)
        elif isinstance(event, SessionStarted):
            login = boot.sessions.get(event.pid)
            if login is not None:
                login.session = event.session or login.session
                login.audit_session = event.audit_session or login.audit_session
        elif len(self.lost) < _MOST_REFUSED:
            self.lost.append(f"{rows.utc(moment.realtime_us)} {event.text}")
        self._forget(boot, moment)

    def finish(self, is_open: Callable[[str, int], bool]) -> None:
        """Tell of all that is left; `is_open` says of boot and process id whether it runs now."""
        for name, boot in self._boots.items():
            over = self._latest[boot.machine] != name
            for pid in list(boot.pending):
                self._give_up(boot.pending.pop(pid))
            for pid, row in boot.sessions.items():
                row.end = "reboot" if over else "open" if is_open(name, pid) else "unknown"
                self._ledger.done(row)
            for row in boot.lately.values():
                if row.kind == rows.OTHER_LOGIN:
                    self._ledger.done(row)
        self._boots.clear()

    def _pending(self, boot: _Boot, pid: int, moment: Moment) -> Pending:
        pending = boot.pending.get(pid)
        if pending is None:
            pending = boot.pending[pid] = Pending(moment.monotonic_us)
        pending.touched_us = moment.monotonic_us
        boot.pending.move_to_end(pid)
        return pending

    def _granted(self, boot: _Boot, event: Decided, moment: Moment, origin: Origin) -> None:
        login = boot.sessions.get(event.pid) or boot.lately.get(event.pid)
        if login is not None:
            behind_us = moment.monotonic_us - event.late_us - login.moment.monotonic_us
            if behind_us <= _OUT_OF_ORDER_US:  # it speaks of that process
                if explains(event, login):
                    self._explain(login, event)
                    return
                if login.fingerprint == event.fingerprint:
                    return  # sshd asks twice, and journald had the other answer first
            elif not event.late_us and event.pid in boot.sessions:
                self._end(boot, event.pid, "unknown", None)
        pending = self._pending(boot, event.pid, moment)
        known = pending.grants.get(event.fingerprint)
        if known is not None:
            known.delivered += 1
            return
        row = decided_row(rows.UNPROVED, event, moment, origin)
        row.detail = "sshd was told of the key, and nobody logged in with it"
        self._ledger.begin(row)
        pending.grants[event.fingerprint] = Grant(row)

    def _explain(self, login: Row, event: Decided) -> None:
        join(login, event)
        self._ledger.explained(login)
        if login.end:
            self._ledger.done(login)

    def _not_granted(self, boot: _Boot, event: Decided, moment: Moment, origin: Origin) -> None:
        pending = self._pending(boot, event.pid, moment)
        if event.what == "undelivered":
            grant = pending.grants.get(event.fingerprint)
            if grant is not None:
                grant.delivered -= 1
                grant.row.detail = "the client was gone before it took the answer"
            return
        key = (event.fingerprint, event.reason)
        if key in pending.refused:
            pending.refused[key].times += 1
        elif len(pending.refused) < _MOST_REFUSED:
            kind = rows.REFUSED if event.what == "refused" else rows.UNDECIDED
            row = pending.refused[key] = decided_row(kind, event, moment, origin)
            self._ledger.begin(row)

    def _accepted(self, boot: _Boot, event: Accepted, moment: Moment, origin: Origin) -> None:
        if event.pid in boot.sessions:
            self._end(boot, event.pid, "unknown", None)
        pending = boot.pending.pop(event.pid, None)
        row = Row(
            rows.OTHER_LOGIN,
            moment,
            origin,
            event.pid,
            event.user,
            event.method,
            event.address,
            event.port,
            event.fingerprint,
            event.certificate,
        )
        if pending is not None:
            if not event.fingerprint:
                name_proved_key(row, pending)
            grant = pending.grants.get(row.fingerprint)
            if grant is not None and is_accepted(grant, row, event):
                del pending.grants[row.fingerprint]
                join(row, grant.row)
            pending.address, pending.port = event.address, event.port
            self._give_up(pending)
        boot.sessions[event.pid] = row
        boot.lately.pop(event.pid, None)
        self._ledger.begin(row)

    def _heard(self, boot: _Boot, event: Ended, moment: Moment) -> None:
        pending = boot.pending.get(event.pid)
        if pending is not None:
            pending.address = event.address or pending.address
            pending.port = event.port or pending.port
            if event.over:
                self._give_up(boot.pending.pop(event.pid))
        elif event.over and event.pid in boot.sessions:
            self._end(boot, event.pid, "closed", moment)

    def _end(self, boot: _Boot, pid: int, end: str, moment: Moment | None) -> None:
        row = boot.sessions.pop(pid)
        row.end, row.ended = end, moment
        if row.kind == rows.LOGIN:
            self._ledger.done(row)
        replaced = boot.lately.pop(pid, None)
        if replaced is not None and replaced.kind == rows.OTHER_LOGIN:
            self._ledger.done(replaced)
        boot.lately[pid] = row

    def _give_up(self, pending: Pending) -> None:
        """Tell of keys that were refused, or that nobody logged in with."""
        for row in (*(grant.row for grant in pending.grants.values()), *pending.refused.values()):
            row.address, row.port = pending.address, pending.port
            self._ledger.done(row)

    def _forget(self, boot: _Boot, moment: Moment) -> None:
        now = moment.monotonic_us
        while boot.pending:
            pid, pending = next(iter(boot.pending.items()))
            if now - pending.touched_us < PATIENCE_US and len(boot.pending) <= _MOST_PENDING:
                break
            self._give_up(boot.pending.pop(pid))
        if len(boot.sessions) > _MOST_SESSIONS:
            self._end(boot, next(iter(boot.sessions)), "unknown", None)
        while boot.lately:
            pid, row = next(iter(boot.lately.items()))
            age_us = now - row.moment.monotonic_us
            if age_us < _LATE_US and len(boot.lately) <= _MOST_LATELY:
                break
            del boot.lately[pid]
            if row.kind == rows.OTHER_LOGIN:
                self._ledger.done(row)

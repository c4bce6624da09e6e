"""`eic-agent audit`: who came in, by which IAM principal, from the journal and CloudTrail."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from eic_agent.journal.entries import escape
from eic_agent.reports import cloudtrail, evidence, journalctl, rows, table
from eic_agent.reports.logins import Logins
from eic_agent.reports.rows import Row, Spool

# A grant precedes its login, so reading begins so much before what is asked for.
_BEFORE_S = 600
_PUSH_LASTS_S = 60
_PROGRESS_EVERY_S = 0.5
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for; times as journalctl takes them."""

    since: str | None = None
    until: str | None = None
    user: str | None = None
    caller: str | None = None
    refused: bool = False
    all: bool = False
    directory: Path | None = None
    cloudtrail: tuple[Path, ...] = ()
    json: bool = False
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Screen:
    """Where it is written; `width` is that of a terminal, `progress` another one, if they are."""

    out: TextIO
    err: TextIO
    width: int | None = None
    progress: bool = False


def run(options: Options, screen: Screen, agent_uid: int | None, now: float) -> None:
    """Write the audit. Raises NoJournal and NoTrail.

    `agent_uid` is the user id of eic-agent on this machine, `now` in seconds since the epoch.
    """
    trail = cloudtrail.load(options.cloudtrail) if options.cloudtrail else None
    source = _Source.found(options, agent_uid, now)
    if options.follow:
        following = _Follower(options, screen, source.from_us)
        source.read(Logins(following), screen, now)
        return
    spool = Spool(lambda row: _wanted(row, options, source.from_us))
    try:
        logins = Logins(spool)
        source.read(logins, screen, now)
        logins.finish(_is_open if options.directory is None else lambda _boot, _pid: False)
        unused: list[dict[str, Any]] = []
        if trail is None:
            _write(spool.rows, options, screen)
        else:
            for row in spool.rows():  # so that it is known which pushes were used
                _joined(row, trail)
            unused = [_push(record) for record in _unused(trail, logins, options, source, now)]
            _write(
                lambda: chain((_joined(row, trail) for row in spool.rows()), unused),
                options,
                screen,
            )
    finally:
        spool.close()
    if spool.empty and not unused:
        screen.err.write("eic-agent: nothing was found that fits\n")
    for line in logins.lost:
        screen.err.write(f"eic-agent: entries are missing: {escape(line)}\n")


@dataclass(frozen=True, slots=True)
class _Source:
    """What journalctl is asked for, and from when on rows are wanted."""

    arguments: tuple[str, ...]
    believer: evidence.Believer
    directory: Path | None
    from_us: int

    @classmethod
    def found(cls, options: Options, agent_uid: int | None, now: float) -> "_Source":
        """Ask the journal where to begin, and who the agent is there."""
        uids = _agent_uids(options.directory, agent_uid)
        selection = evidence.matches({uid for _, uid in uids})
        limits = [f"--until={options.until}"] if options.until is not None else []
        from_us = 0
        if options.since is not None:
            begin = (*limits, f"--since={options.since}", *selection)
            entry = journalctl.first(begin, options.directory)
            from_us = evidence.moment(entry).realtime_us if entry else int(now * 1e6)
        elif options.follow:
            from_us = int(now * 1e6)
        if from_us:
            limits.append(f"--since=@{max(from_us // 1_000_000 - _BEFORE_S, 0)}")
        if options.follow:
            limits += ["--follow", "--lines=all"]
        believer = evidence.Believer(uids)
        return cls((*limits, *selection), believer, options.directory, from_us)

    def read(self, logins: Logins, screen: Screen, now: float) -> None:
        """Hand all that is believed to `logins`."""
        progress = _Progress(screen, now)
        origins = evidence.Origins()
        with journalctl.exported(*self.arguments, directory=self.directory) as stream:
            for entry in journalctl.entries(stream):
                event = self.believer.event(entry)
                if event is not None:
                    moment = evidence.moment(entry)
                    logins.take(event, moment, origins(entry))
                    progress.at(moment.realtime_us)
        progress.end()


def _agent_uids(directory: Path | None, agent_uid: int | None) -> set[tuple[str, int]]:
    """Give the user ids of eic-agent; in journals of other machines by what its service wrote."""
    if directory is None:
        return set() if agent_uid is None else {("", agent_uid)}
    found: set[tuple[str, int]] = set()
    for machine in journalctl.values("_MACHINE_ID", directory):
        by_service = ("_SYSTEMD_UNIT=eic-agent.service", "SYSLOG_IDENTIFIER=eic-agent")
        entry = journalctl.first((f"_MACHINE_ID={machine}", *by_service, "--reverse"), directory)
        uid = evidence.text(entry or {}, b"_UID")
        if uid.isdigit():
            found.add((machine, int(uid)))
    return found


def _is_open(boot: str, pid: int) -> bool:
    """Whether the process still is an sshd of this boot's."""
    try:
        this_boot = _BOOT_ID.read_text().strip().replace("-", "")
        return boot == this_boot and Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    except OSError:
        return False


def _wanted(row: Row, options: Options, from_us: int) -> bool:
    if row.moment.realtime_us < from_us:
        return False
    if row.kind == rows.OTHER_LOGIN:
        if not options.all:
            return False
    elif row.kind != rows.LOGIN and not options.refused:
        return False
    if options.user is not None and row.user != options.user:
        return False
    return options.caller is None or _is_caller(row.principal, options.caller)


def _is_caller(principal: str, pattern: str) -> bool:
    """Match a shell pattern; what has no sign of one is looked for within the principal."""
    if not re.search(r"[*?\[]", pattern):
        return pattern in principal
    return fnmatchcase(principal, pattern)


def _joined(row: dict[str, Any], trail: cloudtrail.Trail) -> dict[str, Any]:
    if row["kind"] != rows.LOGIN:
        return row | {"cloudtrail": None}
    at = cloudtrail.seconds(f"{row['time'][:19]}Z")
    return row | {"cloudtrail": trail.explain(row["request"] or "", row["principal"] or "", at)}


def _unused(
    trail: cloudtrail.Trail, logins: Logins, options: Options, source: _Source, now: float
) -> Iterator[cloudtrail.Record]:
    """Give the pushes of what was read that no login came of, and that are over."""
    begin = max(source.from_us, logins.first_us) / 1e6
    bounded = options.until is not None or options.directory is not None
    end = (logins.last_us / 1e6 if bounded else now) - _PUSH_LASTS_S
    for record in trail.unused(logins.instances, begin, end):
        if options.user in (None, record.user) and (
            options.caller is None or _is_caller(record.principal, options.caller)
        ):
            yield record


def _push(record: cloudtrail.Record) -> dict[str, Any]:
    return {
        "kind": "unused-push",
        "time": record.data()["time"],
        "user": record.user or None,
        "principal": record.principal or None,
        "request": record.request or None,
        "instance": record.instance or None,
        "cloudtrail": {"push": record.data(), "tunnel": None},
    }


def _write(found: Callable[[], Iterable[dict[str, Any]]], options: Options, screen: Screen) -> None:
    if options.json:
        for row in found():
            screen.out.write(json.dumps(row) + "\n")
        return
    for line in table.lines(found, screen.width):
        screen.out.write(line + "\n")


class _Follower:
    """Writes each row at once; how long a login lasts is not known then."""

    def __init__(self, options: Options, screen: Screen, from_us: int) -> None:
        self._options, self._screen, self._from_us = options, screen, from_us

    def begin(self, row: Row) -> None:
        """Write it, but for a grant that may yet become a login."""
        if row.kind != rows.UNPROVED:
            self._show(row)

    def explained(self, row: Row) -> None:
        """Write it again: now it is known who it was."""
        self._show(row)

    def done(self, row: Row) -> None:
        """Write what did not become a login."""
        if row.kind == rows.UNPROVED:
            self._show(row)

    def _show(self, row: Row) -> None:
        if _wanted(row, self._options, self._from_us):
            data = row.data()
            line = json.dumps(data) if self._options.json else table.line(data)
            self._screen.out.write(line + "\n")
            self._screen.out.flush()


class _Progress:
    """One line on a terminal that says how far reading has come."""

    def __init__(self, screen: Screen, now: float) -> None:
        self._err = screen.err if screen.progress else None
        self._until_us = now * 1e6
        self._first_us = 0
        self._next_s = time.monotonic() + _PROGRESS_EVERY_S
        self._count = 0
        self._shown = False

    def at(self, realtime_us: int) -> None:
        """Count an entry of this time."""
        if self._err is None:
            return
        self._count += 1
        self._first_us = self._first_us or realtime_us
        if self._count % 1024 or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _PROGRESS_EVERY_S
        all_us = max(self._until_us - self._first_us, 1)
        share = min(max((realtime_us - self._first_us) / all_us, 0), 1)
        bar = "#" * round(share * 30)
        self._err.write(f"\rreading the journal [{bar:30}] {self._count} entries")
        self._err.flush()
        self._shown = True

    def end(self) -> None:
        """Leave the line empty."""
        if self._shown and self._err is not None:
            self._err.write("\r\x1b[K")
            self._err.flush()

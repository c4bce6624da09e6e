"""The wiring: make sshd ask eic-agent, and undo that without a trace.

It is one generated drop-in, which sorts before every other that is known to set
AuthorizedKeysCommand, since sshd keeps the first value of a keyword. Where sshd would not read it
first, and only when asked to, a delimited block at the top of the main file includes it.

1. Survey: how sshd is started, and what it says of its configuration without us.
2. Plan: a command in effect is chained with its own arguments, and its user is kept. AWS's own
   is replaced.
3. Trial: sshd is asked about a copy that holds the change. Nothing is written unless it then asks
   us, as planned.
4. Write: each file atomically, the drop-in last (first, when it goes), so that sshd's configuration
   changes in one moment. sshd is asked once more; whatever fails, every file is put back.
5. Reload the sshd that systemd runs. Nothing that listens is ever restarted.

Doing it twice is doing it once. Maintainer scripts call `enable(unless_disabled=True)` after every
installation and upgrade, and `disable(by_admin=False)` before a removal, not before an upgrade.
`disable` by an administrator leaves a mark (`SshdPaths.disabled`) which the first respects, and
which only `enable` or a purge removes.
"""

import contextlib
from dataclasses import asdict, dataclass, replace
from typing import Any

from eic_agent.sshd.changes import Changes, content_of, locked
from eic_agent.sshd.files import Tree, quote
from eic_agent.sshd.launch import ProgramFailed, Systemd, UnitState
from eic_agent.sshd.plan import Prepared, concerns, made_folder, prepare, require_sshd
from eic_agent.sshd.survey import (
    GENERATED,
    SPELLING,
    UNITS,
    NotAccepted,
    Refused,
    Sshd,
    SshdPaths,
    Survey,
    System,
    as_written,
    asking,
    command_words,
    overrides,
    survey,
)

__all__ = [
    "Outcome",
    "Override",
    "Problem",
    "Report",
    "SshdPaths",
    "System",
    "as_data",
    "disable",
    "enable",
    "outcome_text",
    "report_text",
    "status",
]

_FAILURES = (Refused, NotAccepted, ProgramFailed, OSError)
_AGENT_UNIT = "eic-agent.service"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What enabling or disabling did; where not ok, nothing was changed."""

    ok: bool
    changed: bool
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """0, or 1 where sshd would not accept it."""
        return 0 if self.ok else 1


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Override:
    """A setting within a Match block: for those whom it matches, it counts instead of ours."""

    where: str
    match: str
    setting: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `sshd status` found; None where there is nothing, or nothing could be found out."""

    main_file: str
    sshd: str | None = None
    error: str | None = None  # why sshd does not accept its configuration
    asks_us: bool = False
    command: str | None = None
    user: str | None = None
    set_at: str | None = None  # FILE:LINE, or the unit or process whose -o sets the command
    chained: tuple[str, ...] = ()
    drop_in: str = "absent"  # or "present", "outdated", "not ours"
    main_file_edited: bool = False
    options: tuple[str, ...] = ()  # where -o sets the command or its user
    overrides: tuple[Override, ...] = ()
    disabled_by_admin: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def exit_status(self) -> int:
        """0, or 1 where sshd gave no answer."""
        return 0 if self.sshd is not None and self.error is None else 1


def enable(
    system: System, *, edit_main_file: bool = False, unless_disabled: bool = False
) -> Outcome:
    """Wire sshd; with `unless_disabled` not where an administrator disabled it."""
    mark = system.paths.disabled
    if unless_disabled and mark.exists():
        line = f"left alone, since an administrator ran `eic-agent sshd disable` (so says {mark})"
        return Outcome(ok=True, changed=False, lines=(line,))
    try:
        require_sshd(system)
        with locked(system.paths.main.parent):
            found = survey(system)
            with asking(found) as sshd:
                outcome = _enable(found, sshd, prepare(found, sshd, edit_main_file=edit_main_file))
            mark.unlink(missing_ok=True)
            return outcome
    except _FAILURES as error:
        return Outcome(
            ok=False, changed=False, lines=(f"not enabled, nothing was changed: {error}",)
        )


def disable(system: System, *, by_admin: bool = True) -> Outcome:
    """Undo the wiring; `by_admin` leaves the mark that later installations respect.

    Works as well where sshd is not installed any more, or does not accept its configuration anyway.
    """
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                stack.enter_context(locked(system.paths.main.parent))
            found = survey(system)
            return _disable(found, found.tree_without_us(), by_admin=by_admin)
    except _FAILURES as error:
        return Outcome(
            ok=False, changed=False, lines=(f"not disabled, nothing was changed: {error}",)
        )


def status(system: System) -> Report:
    """Find out what sshd does now, and what is in the way of asking us; changes nothing."""
    paths = system.paths
    report = Report(str(paths.main), disabled_by_admin=paths.disabled.exists())
    try:
        require_sshd(system)
        report = replace(report, sshd=str(paths.sshd))
        found = survey(system)
        report = replace(
            report,
            main_file=str(found.main),
            main_file_edited=found.wrote_block,
            drop_in="absent"
            if found.drop_in is None
            else "present"
            if found.wrote_drop_in
            else "not ours",
            options=tuple(
                f"{launch.source}: {spelling} {launch.option(keyword)}"
                for launch in found.launches
                for keyword, spelling in SPELLING.items()
                if launch.option(keyword) is not None
            ),
        )
        with asking(found) as sshd:
            return _examine(found, sshd, report)
    except Refused as error:
        return replace(report, problems=(Problem(error.what, error.remedy),))
    except (NotAccepted, OSError) as error:
        problem = Problem(
            f"sshd does not accept its configuration: {error}", "Correct that, or run this as root"
        )
        return replace(report, error=str(error), problems=(problem,))


def as_data(report: Report) -> dict[str, Any]:
    """Give the report as JSON can hold it."""
    return asdict(report)


def report_text(report: Report) -> str:
    """Give the report as lines for people."""
    rows = [
        ("sshd", report.sshd or "not installed"),
        (
            "main file",
            report.main_file + (" (edited by eic-agent)" if report.main_file_edited else ""),
        ),
        ("asks eic-agent", "yes" if report.asks_us else "no"),
        ("AuthorizedKeysCommand", report.command or "none"),
        ("AuthorizedKeysCommandUser", report.user or "none"),
        ("set at", report.set_at or "nowhere"),
        ("chained", " ".join(map(quote, report.chained)) or "nothing"),
        ("drop-in", report.drop_in),
        *(("sshd option", option) for option in report.options),
        *(
            ("overridden", f"{one.where}: {one.setting} (Match {one.match})")
            for one in report.overrides
        ),
        ("disabled", "by an administrator" if report.disabled_by_admin else "no"),
    ]
    lines = [f"{name + ':':<27}{value}" for name, value in rows]
    lines += [f"problem: {problem.what}. {problem.remedy}." for problem in report.problems]
    return _printable(lines)


def outcome_text(outcome: Outcome) -> str:
    """Give the outcome as lines for people."""
    return _printable([*outcome.lines, *(f"warning: {warning}" for warning in outcome.warnings)])


def _printable(lines: list[str]) -> str:
    """Join lines; files may hold anything, but a terminal gets only what can be printed."""
    text = "\n".join(lines)
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _enable(found: Survey, sshd: Sshd, prepared: Prepared) -> Outcome:
    plan = prepared.plan
    if plan is None:
        line = (
            f"sshd asks eic-agent already, by {prepared.set_at}, which eic-agent did not write: "
            "left alone"
        )
        return Outcome(ok=True, changed=False, lines=(line,))
    drop_in = found.system.paths.drop_in
    overriding = [
        f"{one.where} sets {one.setting} within 'Match {one.match}', "
        "which counts for those whom it matches"
        for one in _overrides(found.tree_without_us())
    ]
    changes = Changes()
    try:
        for path in sorted(prepared.files, key=lambda path: path == drop_in):
            changes.put(
                path, prepared.files[path], 0o644 if path == found.system.paths.snippet else 0o600
            )
        plan.require(sshd.effective(found.tree()))
        said = _reload_sshd(found, changes)
    except BaseException:
        changes.undo()
        raise
    warnings = (*plan.warnings, *overriding, *_reload_agent(found.system, changes))
    lines = (f"sshd asks eic-agent, by {drop_in}", *plan.remarks, *said)
    return Outcome(ok=True, changed=bool(changes), lines=lines, warnings=warnings)


def _disable(found: Survey, without: Tree, *, by_admin: bool) -> Outcome:
    paths = found.system.paths
    still_asks = _require_valid(found, without) if paths.sshd.exists() else None
    remove_folder = found.wrote_drop_in and made_folder(found)
    changes = Changes()
    try:
        if by_admin:
            mark = b"`eic-agent sshd disable` made this, and `eic-agent sshd enable` removes it.\n"
            changes.put(paths.disabled, mark, 0o644)
        if found.wrote_drop_in:
            changes.put(paths.drop_in, None, 0o600)
        if found.wrote_block:
            changes.put(found.main, found.main_without_block(), 0o600)
        if (content_of(paths.snippet) or b"").startswith(GENERATED):
            changes.put(paths.snippet, None, 0o644)
    except BaseException:
        changes.undo()
        raise
    if remove_folder:
        with contextlib.suppress(OSError):  # others use it by now
            paths.drop_in.parent.rmdir()
    warnings = _reload_agent(found.system, changes)
    if changes.touched(paths.drop_in) or changes.touched(found.main):
        lines = ["sshd's configuration is as it was without eic-agent"]
    else:
        lines = ["sshd was not wired by eic-agent: nothing to undo"]
    try:
        lines += _reload_sshd(found, changes)
    except ProgramFailed as error:
        warnings.append(f"sshd asks eic-agent until it is reloaded, which failed: {error}")
    if still_asks is not None:
        warnings.append(
            f"sshd still asks eic-agent, by {still_asks}, which eic-agent did not write"
        )
    if found.drop_in is not None and not found.wrote_drop_in:
        warnings.append(f"{paths.drop_in} was not written by eic-agent, and is left alone")
    return Outcome(ok=True, changed=bool(changes), lines=tuple(lines), warnings=tuple(warnings))


def _require_valid(found: Survey, without: Tree) -> str | None:
    """Refuse where our going spoils something; return what would ask us even then."""
    with asking(found) as sshd:
        try:
            after = sshd.effective(without)
        except NotAccepted as error:
            try:
                sshd.effective(found.tree())
            except NotAccepted:
                return None  # it is broken already, and not by us
            raise Refused(
                f"sshd would not accept its configuration without eic-agent, and says: {error}",
                "Correct that first, then try again",
            ) from error
    return found.set_at(without) if found.system.asks_us(after.command) else None


def _examine(found: Survey, sshd: Sshd, report: Report) -> Report:
    effective = sshd.effective(found.tree())
    asks_us = found.system.asks_us(effective.command)
    argv = command_words(effective.command or "")
    problems = [
        Problem(concern, "Then run `eic-agent sshd status` again")
        for concern in concerns(found, effective)
    ]
    drop_in = report.drop_in
    try:
        prepared = prepare(found, sshd, edit_main_file=found.wrote_block)
    except Refused as error:
        problems.append(Problem(error.what, error.remedy))
    else:
        if drop_in == "present" and prepared.files.get(found.system.paths.drop_in) != found.drop_in:
            drop_in = "outdated"
            what = "the drop-in does not fit the rest of sshd's configuration any more"
            problems.append(Problem(what, "Run `eic-agent sshd enable`"))
        elif not asks_us:
            why = ": an administrator disabled it" if report.disabled_by_admin else ""
            problems.append(
                Problem(f"sshd does not ask eic-agent{why}", "Run `eic-agent sshd enable`")
            )
    return replace(
        report,
        command=effective.command,
        user=effective.user,
        asks_us=asks_us,
        set_at=found.set_at(found.tree()),
        chained=argv[argv.index("--chain") + 1 :] if asks_us and "--chain" in argv else (),
        drop_in=drop_in,
        overrides=_overrides(found.tree_without_us()),
        problems=tuple(problems),
    )


def _overrides(tree: Tree) -> tuple[Override, ...]:
    return tuple(
        Override(line.where, line.match or "", as_written(line)) for line in overrides(tree)
    )


def _reload_sshd(found: Survey, changes: Changes) -> list[str]:
    """Let running listeners know; return what was done or is left to do. Raises ProgramFailed."""
    if not (changes.touched(found.system.paths.drop_in) or changes.touched(found.main)):
        return []
    said = [
        _reload_unit(found.system.paths.systemd, state)
        for state in found.system.paths.systemd.states(*UNITS)
        if state.active in ("active", "reloading", "activating")
    ]
    said += [
        f"{one.source} is an sshd that systemd does not run: "
        f"`kill -HUP {one.pid}` makes it read its configuration"
        for one in found.listeners
        if one.pid not in found.main_pids
    ]
    return said


def _reload_unit(systemd: Systemd, state: UnitState) -> str:
    """Let sshd's unit read its configuration; return what was done, or is left to do.

    An sshd that has its sockets from systemd does not survive a reload on Debian, where it tries to
    bind them again. It is stopped: the socket goes on listening and starts it for the next
    connection, and sessions go on, where the unit says KillMode=process as every distribution's.
    """
    sockets = [
        socket for socket in systemd.states(*state.triggered_by) if socket.active == "active"
    ]
    if state.active == "activating":
        return f"{state.id} is just starting: `systemctl reload {state.id}` if it was too early"
    if not sockets:
        systemd.reload(state.id)
        return f"reloaded {state.id}"
    if state.kill_mode != "process":
        return (
            f"{state.id} has its sockets from {sockets[0].id} and KillMode={state.kill_mode}: "
            f"`systemctl stop {state.id}` makes it start anew, but may end sessions"
        )
    systemd.stop(state.id)
    return f"{sockets[0].id} starts {state.id} anew for the next connection"


def _reload_agent(system: System, changes: Changes) -> list[str]:
    """Let a running agent know whom its socket answers now; return warnings."""
    if changes.touched(system.paths.snippet):
        systemd = system.paths.systemd
        try:
            for state in systemd.states(_AGENT_UNIT):
                if state.active == "active":
                    systemd.reload(state.id)
        except ProgramFailed as error:
            return [f"{_AGENT_UNIT} was not reloaded, and does not know whom to answer: {error}"]
    return []

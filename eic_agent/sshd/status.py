"""What sshd does now, and what is in the way of asking us, for people and for programs."""

import errno
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eic_agent.lookup.users import exists
from eic_agent.sshd.asking import NotAccepted, Sshd, asking
from eic_agent.sshd.files import Tree, quote
from eic_agent.sshd.plan import concerns, prepare, require_sshd
from eic_agent.sshd.survey import (
    SPELLING,
    Refused,
    Survey,
    System,
    as_written,
    command_words,
    overrides,
    survey,
    unsafe,
)

_NOT_SEEN = "not seen without root"


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
    not_seen: str | None = None  # what could not be looked at without root; then nothing is claimed
    asks_us: bool | None = False  # None where that could not be seen
    command: str | None = None
    user: str | None = None
    set_at: str | None = None  # FILE:LINE, or the unit or process whose -o sets the command
    chained: tuple[str, ...] = ()
    drop_in: str = "absent"  # or "present", "outdated", "not ours", "not seen"
    main_file_edited: bool = False
    options: tuple[str, ...] = ()  # where -o sets the command or its user
    overrides: tuple[Override, ...] = ()
    disabled_by_admin: bool = False
    runs_client: bool = False  # sshd would run what it asks
    problems: tuple[Problem, ...] = ()

    @property
    def exit_status(self) -> int:
        """0 where sshd asks us and would run the client; else 1, also where that is not seen."""
        return 0 if self.asks_us and self.runs_client else 1


def find(system: System) -> Report:
    """Find out what sshd does now, and what is in the way of asking us; changes nothing."""
    paths = system.paths
    report = Report(str(paths.main), disabled_by_admin=system.why_disabled() is not None)
    try:
        require_sshd(system)
        report = replace(report, sshd=str(paths.sshd))
        require_sight(system)
        found = survey(system)
        for _ in found.tree().lines():
            pass  # every file that sshd reads: what we may not, it may not as our user
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
    except PermissionError as error:
        return _unseen(system, report, error)
    except (NotAccepted, OSError) as error:
        problem = Problem(f"sshd does not accept its configuration: {error}", "Correct that")
        return replace(report, error=str(error), problems=(problem,))


def require_sight(system: System) -> None:
    """Raise PermissionError where running listeners, and so their -o, are not ours to see."""
    if os.geteuid() == 0:
        return  # also where a container hides its first process from its own root
    proc = system.paths.proc
    first = proc / "1/exe"
    try:
        first.readlink()
    except FileNotFoundError:
        if not (proc / "self").exists():
            return  # a copy made by somebody
        raise PermissionError(errno.EACCES, "is hidden", str(first)) from None


def _unseen(system: System, report: Report, error: PermissionError) -> Report:
    """Give what anybody may know, and claim nothing else."""
    what = f"{error.filename}: {error.strerror}"
    return replace(
        report,
        not_seen=what,
        asks_us=None,
        drop_in="not seen" if os.path.lexists(system.paths.drop_in) else "absent",
        problems=(Problem(f"not seen without root: what sshd does ({what})", "Run this as root"),),
    )


def as_data(report: Report) -> dict[str, Any]:
    """Give the report as JSON can hold it."""
    return asdict(report)


def text(report: Report) -> str:
    """Give the report as lines for people."""
    nothing = "none" if report.not_seen is None else _NOT_SEEN
    asks_us = _NOT_SEEN if report.asks_us is None else "yes" if report.asks_us else "no"
    rows = [
        ("sshd", report.sshd or "not installed"),
        (
            "main file",
            report.main_file + (" (edited by eic-agent)" if report.main_file_edited else ""),
        ),
        ("asks eic-agent", asks_us),
        ("AuthorizedKeysCommand", report.command or nothing),
        ("AuthorizedKeysCommandUser", report.user or nothing),
        ("set at", report.set_at or nothing.replace("none", "nowhere")),
        ("chained", " ".join(map(quote, report.chained)) or nothing.replace("none", "nothing")),
        ("drop-in", _NOT_SEEN if report.drop_in == "not seen" else report.drop_in),
        *(("sshd option", option) for option in report.options),
        *(
            ("overridden", f"{one.where}: {one.setting} (Match {one.match})")
            for one in report.overrides
        ),
        ("disabled", "by an administrator" if report.disabled_by_admin else "no"),
    ]
    lines = [f"{name + ':':<27}{value}" for name, value in rows]
    lines += [f"problem: {problem.what}. {problem.remedy}." for problem in report.problems]
    return printable(lines)


def printable(lines: list[str]) -> str:
    """Join lines; files may hold anything, but a terminal gets only what can be printed."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in "\n".join(lines)
    )


def _examine(found: Survey, sshd: Sshd, report: Report) -> Report:
    effective = sshd.effective(found.tree())
    # Where a listener still runs with another command, or no keys count, what is written is not so.
    asks_us = (
        found.system.asks_us(effective.command)
        and effective.public_keys
        and not any(map(found.waits_for_restart, found.listeners))
    )
    argv = command_words(effective.command or "")
    chained = argv[argv.index("--chain") + 1 :] if "--chain" in argv else ()
    if not found.system.asks_us(effective.command):
        chained = ()
    problems = [
        Problem(concern, "Then run `eic-agent sshd status` again")
        for concern in concerns(found, effective)
    ]
    program = chained[0].replace("%%", "%") if chained else None  # as sshd expands it
    why_unsafe = unsafe(Path(program)) if program is not None else None
    if why_unsafe is not None:
        what = f"{program}, which is chained, is not run, since {why_unsafe}"
        problems.append(Problem(what, "Correct that, or run `eic-agent sshd enable` without it"))
    drop_in = report.drop_in
    try:
        prepared = prepare(found, sshd, edit_main_file=found.wrote_block)
    except Refused as error:
        problems.append(Problem(error.what, error.remedy))
    else:
        if found.wrote_former or (
            drop_in == "present" and prepared.files.get(found.system.paths.drop_in) != found.drop_in
        ):
            drop_in = "outdated"
            what = "the drop-in does not fit the rest of sshd's configuration any more"
            problems.append(Problem(what, "Run `eic-agent sshd enable`"))
        elif not found.system.asks_us(effective.command):
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
        chained=chained,
        runs_client=unsafe(Path(argv[0])) is None and _can_be(effective.user) if argv else False,
        drop_in=drop_in,
        overrides=_overrides(found.tree_without_us()),
        problems=tuple(problems),
    )


def _can_be(user: str | None) -> bool:
    """Say whether sshd could run a command as this AuthorizedKeysCommandUser."""
    return user is not None and ("%" in user or exists(user))


def _overrides(tree: Tree) -> tuple[Override, ...]:
    return tuple(
        Override(line.where, line.match or "", as_written(line)) for line in overrides(tree)
    )

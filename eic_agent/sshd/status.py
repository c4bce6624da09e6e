"""What sshd does now, and what is in the way of asking us, for people and for programs."""

from dataclasses import asdict, dataclass, replace
from typing import Any

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
)


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


def find(system: System) -> Report:
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


def text(report: Report) -> str:
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
    return printable(lines)


def printable(lines: list[str]) -> str:
    """Join lines; files may hold anything, but a terminal gets only what can be printed."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in "\n".join(lines)
    )


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

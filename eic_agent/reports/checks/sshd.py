"""Whether sshd asks us, runs our client and lets the user in."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from eic_agent.reports.checks.check import Check, Finding, error, not_seen, ok, warning
from eic_agent.sshd import access, status
from eic_agent.sshd.survey import System

_AWS = Path("/usr/share/ec2-instance-connect/eic_run_authorized_keys")


def checks(system: System, user: str | None, now: float) -> Iterable[Check]:
    """Give the checks of sshd's side."""
    yield Check("sshd asks", lambda: _asks(system))
    if user is not None:
        yield Check(f"user {user}", lambda: _user(system, user, now))
    yield Check("AWS's own package", _aws)


def _asks(system: System) -> Iterator[Finding]:
    report = status.find(system)
    if report.not_seen is not None:
        yield not_seen("whether sshd asks eic-agent")
        return
    if report.asks_us and not report.runs_client:
        client = system.paths.client
        yield error(
            f"sshd refuses to run {client}, or to run it as {report.user or 'nobody'}: owners, "
            "modes or the user are wrong",
            f"chown root:root {client}, chmod 0755 {client} and go-w its directories; "
            "systemd-sysusers makes the user",
        )
    for problem in report.problems:
        # What is wrong where sshd asks us all the same costs a chained command, or the next change.
        make = warning if report.exit_status == 0 else error
        yield make(problem.what, problem.remedy)
    for one in report.overrides:
        yield warning(
            f"Match {one.match} sets {one.setting} ({one.where})",
            "Ask about a user that it matches: `eic-agent doctor --user NAME`",
        )
    if report.exit_status == 0:
        yield ok(f"yes, as {report.user} ({report.set_at})")
    elif report.asks_us is False and not report.problems:
        yield error("sshd does not ask eic-agent", "Run `eic-agent sshd enable`")


def _user(system: System, user: str, now: float) -> Iterator[Finding]:
    found = access.find(system, user, now)
    if found.asks is None:
        yield not_seen(f"whether sshd asks for {user}")
    for problem in found.problems:
        yield error(problem.what, problem.remedy)
    for remark in found.remarks:
        yield warning(remark.what, remark.remedy)
    if found.asks and found.name != user:
        yield warning(f"sshd calls {user} {found.name}", f"Push keys for {found.name}")
    if found.asks:
        yield ok(f"sshd asks for {found.name} and lets the account in")


def _aws() -> Iterator[Finding]:
    if _AWS.exists():
        yield warning(
            "ec2-instance-connect, AWS's own package, is installed beside this one",
            "Remove it: eic-agent does its work",
        )
    else:
        yield ok("not installed")

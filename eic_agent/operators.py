"""What operators run: each command asks the room that knows, and prints what it says.

No login waits for any of this. Like cli.py it may read the clock.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

from eic_agent import client
from eic_agent.composition import build_authorizer, load
from eic_agent.configuration import config
from eic_agent.errors import ConfigError, Reason
from eic_agent.journal.entries import escape
from eic_agent.journal.writer import open_journal
from eic_agent.lookup.authorizer import Authorizer, Counters
from eic_agent.lookup.question import Question
from eic_agent.lookup.users import UserDatabase
from eic_agent.metadata.deadline import Deadline

if TYPE_CHECKING:
    from eic_agent.sshd.wiring import Outcome

_AGENTS_USER_S = 2.0  # for the user database to say who the agent's user is


def _status(args: argparse.Namespace) -> int:
    from eic_agent.reports import status, wire
    from eic_agent.sshd.status import find
    from eic_agent.sshd.survey import System

    system = System()
    try:
        wire.require_running(args.socket, system.paths.systemd)
        found = status.ask(args.socket)
    except wire.NotRunning as error:
        states = wire.unit_states(system.paths.systemd)
        units = "".join(f"; {unit} is {state}" for unit, state in states.items())
        print(f"eic-agent: not ready: {escape(str(error))}{units}", file=sys.stderr)
        return 1
    # The client that sshd runs asks no other socket.
    sshd = find(system) if str(args.socket) == client.SOCKET else None
    health = status.Health(found, sshd)
    if args.json:
        print(json.dumps(health.data(), indent=2))
    elif args.openmetrics:
        print(status.openmetrics(found), end="")
    else:
        print(status.counters(found) if args.counters else health.text(time.time()))
    return 0 if health.problem is None else 1


def _explain(args: argparse.Namespace) -> int:
    from eic_agent.reports.explain import Report
    from eic_agent.sshd import access
    from eic_agent.sshd.survey import System

    asked = access.find(System(), args.user, time.time())
    lookup, seen_by = _looked_up(args, asked.name or args.user)
    report = Report(asked, lookup, seen_by)
    print(json.dumps(report.data(), indent=2) if args.json else report.text(verbose=args.verbose))
    return 0 if report.grants else 1


def _looked_up(args: argparse.Namespace, user: str) -> tuple[dict[str, Any], str]:
    """Have the running agent look, or where it does not run, look as its user; say who did."""
    from eic_agent.lookup.explanation import explain, undecided
    from eic_agent.reports import config_check, wire
    from eic_agent.reports.explain import ask_agent
    from eic_agent.sshd.launch import Systemd

    question = Question(user, args.fingerprint or None)
    if args.config is None and os.geteuid() == 0:
        try:
            wire.require_running(args.socket, Systemd())
            return ask_agent(args.socket, user, question.fingerprint), "the running agent"
        except wire.NotRunning as error:
            why = f"a process of its own ({escape(str(error))})"
    else:
        why = "a process of its own"
    whose_eyes = config_check.become_agent(UserDatabase())
    seen_by = f"{why}, {whose_eyes or 'as the user of the agent'}"
    try:
        settings = load(args.config).config
    except ConfigError as error:
        return undecided(question, Reason.INVALID_CONFIG, str(error)).data(), seen_by
    deadline = Deadline.after(settings.imds.deadline_s)
    with closing(open_journal()) as journal, ThreadPoolExecutor(1) as workers:
        authorizer = build_authorizer(
            settings, journal, workers, Counters(), UserDatabase(), deadline
        )
        return explain(authorizer, question, deadline).data(), seen_by


def _doctor(args: argparse.Namespace) -> int:
    from eic_agent.reports import doctor, reach, status, wire
    from eic_agent.reports.checks import instance, service, sshd
    from eic_agent.sshd.survey import System

    system = System()
    running = None
    try:
        wire.require_running(args.socket, system.paths.systemd)
        running = status.ask(args.socket)
    except wire.NotRunning:
        pass  # the check of the units says so
    read_at = None if running is None else running.get("configuration_read_at")
    unit = reach.unit_properties()

    def as_agent() -> "Iterable[doctor.Titled]":
        with closing(open_journal()) as journal, ThreadPoolExecutor(1) as workers:

            def build(loaded: config.Loaded) -> Authorizer:
                users = UserDatabase()
                return build_authorizer(loaded.config, journal, workers, Counters(), users)

            yield from instance.look(lambda: load(args.config), build, unit, read_at)

    checks = (
        *sshd.checks(system, args.user, time.time()),
        *service.checks(system.paths.systemd, running),
    )
    diagnosis = doctor.diagnose(checks, as_agent)
    print(json.dumps(diagnosis.data(), indent=2) if args.json else diagnosis.text())
    return diagnosis.exit_status


def _agent_uid() -> int | None:
    """Give the id of the user that the agent runs as. Raises UsersUnavailable."""
    return UserDatabase().user_ids(["eic-agent"], Deadline.after(_AGENTS_USER_S))["eic-agent"]


def _audit(args: argparse.Namespace) -> int:
    from eic_agent.errors import EicAgentError
    from eic_agent.reports import audit, journalctl

    if args.follow and (args.cloudtrail or args.until is not None):
        print("eic-agent: --follow goes with neither --cloudtrail nor --until", file=sys.stderr)
        return 2
    if args.directory is None and not journalctl.may_read():
        print(f"eic-agent: {journalctl.NO_RIGHT}", file=sys.stderr)
        return 1
    options = audit.Options(
        since=args.since,
        until=args.until,
        user=args.user,
        caller=args.caller,
        refused=args.refused,
        all=args.all,
        directory=args.directory,
        cloudtrail=tuple(args.cloudtrail),
        json=args.json,
        follow=args.follow,
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    screen = audit.Screen(sys.stdout, sys.stderr, width, progress=sys.stderr.isatty())
    try:
        audit.run(options, screen, _agent_uid(), time.time())
    except EicAgentError as error:
        print(f"eic-agent: {escape(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stdout = None  # or the interpreter would complain once more when it ends
    return 0


def _whoami(args: argparse.Namespace) -> int:
    from eic_agent.errors import EicAgentError
    from eic_agent.reports import journalctl, whoami

    if not journalctl.may_read():
        print(f"eic-agent: {journalctl.NO_RIGHT}", file=sys.stderr)
        return 1
    try:
        session = whoami.find(args.session or os.getpid(), _agent_uid())
    except EicAgentError as error:
        print(f"eic-agent: {escape(str(error))}", file=sys.stderr)
        return 1
    print(json.dumps(session.data(), indent=2) if args.json else session.text())
    return 0


def _sshd_status(args: argparse.Namespace) -> int:
    from eic_agent.sshd import status
    from eic_agent.sshd.survey import System

    report = status.find(System())
    print(json.dumps(status.as_data(report), indent=2) if args.json else status.text(report))
    return report.exit_status


def _sshd_enable(args: argparse.Namespace) -> int:
    from eic_agent.sshd import wiring
    from eic_agent.sshd.survey import System

    return _sshd_changed(
        wiring.enable(
            System(),
            edit_main_file=args.edit_main_file,
            permit_environment=args.permit_environment,
            unless_disabled=args.unless_disabled,
        )
    )


def _sshd_disable(args: argparse.Namespace) -> int:
    from eic_agent.sshd import wiring
    from eic_agent.sshd.survey import System

    return _sshd_changed(wiring.disable(System(), by_admin=not args.for_removal))


def _sshd_changed(outcome: "Outcome") -> int:
    from eic_agent.sshd import wiring

    print(wiring.outcome_text(outcome), file=sys.stdout if outcome.ok else sys.stderr)
    return outcome.exit_status


def _config_check(args: argparse.Namespace) -> int:
    from eic_agent.reports import config_check, reach

    if args.caller is not None and args.user is None:
        print("eic-agent: --caller wants --user, for whom the key is pushed", file=sys.stderr)
        return 2
    users = UserDatabase()
    unit = reach.unit_properties()
    whose_eyes = config_check.become_agent(users)
    found = config_check.check(lambda: load(args.config), users, args.user, args.caller, unit)
    if whose_eyes is not None:
        found.problems.append(whose_eyes)
    print(config_check.text(found.problems), end="", file=sys.stderr)
    print(config_check.text(found.results), end="")
    return 0 if found.ok else 1


def _config_show(args: argparse.Namespace) -> int:
    try:
        loaded = load(args.config)
    except ConfigError as error:
        print("\n".join(escape(line) for line in str(error).splitlines()), file=sys.stderr)
        return 1
    print(config.show(loaded.config, loaded.origins if args.origin else None), end="")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "status": _status,
    "explain": _explain,
    "doctor": _doctor,
    "audit": _audit,
    "whoami": _whoami,
    "sshd status": _sshd_status,
    "sshd enable": _sshd_enable,
    "sshd disable": _sshd_disable,
    "config check": _config_check,
    "config show": _config_show,
}

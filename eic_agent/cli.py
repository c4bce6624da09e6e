"""`eic-agent`: the composition root; everything is built here and given the clock.

What only operators' commands need is imported when one of them runs: a login waits for the rest.
"""

import argparse
import gc
import json
import os
import re
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eic_agent import __version__, client
from eic_agent.configuration import config
from eic_agent.errors import ConfigError, Reason, UsersUnavailable
from eic_agent.journal.entries import escape
from eic_agent.journal.writer import Journal, open_journal
from eic_agent.lookup.anchors import load_anchors
from eic_agent.lookup.authorizer import Authorizer, Counters, Rules
from eic_agent.lookup.identity import configured_partition
from eic_agent.lookup.memory import Memory
from eic_agent.lookup.question import Question
from eic_agent.lookup.users import UserDatabase
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import NEVER, Deadline
from eic_agent.resident.agent import Agent, explained, without_configuration
from eic_agent.resident.limits import Handlers
from eic_agent.resident.listener import Listener, NoSocket
from eic_agent.resident.notify import Notifier
from eic_agent.resident.pressure import Pressure
from eic_agent.resident.service import Service
from eic_agent.resident.upkeep import Upkeep

if TYPE_CHECKING:
    from eic_agent.sshd.wiring import Outcome

# Metadata requests of the resident agent at a time; each takes a second at most.
_FETCHERS = 32
_STANDBY_IDLE_EXIT_S = 30.0
# For the user database to say who `[agent] clients` are, when the agent starts or reloads.
_CLIENTS_S = 2.0


def main(
    argv: Sequence[str] | None = None,
    began: float | None = None,
    hand_over: Callable[[], Iterable[tuple[int, float]]] = tuple,
) -> int:
    """Run one command and return its exit status.

    `began` is when this process did, on the monotonic clock; `hand_over` gives the connections
    that were accepted since (entry.Greeter).
    """
    # The library warns of serial numbers of old roots in the system store, and of names in whatever
    # certificate is served; CryptographyDeprecationWarning is one of these, too.
    warnings.simplefilter("ignore", UserWarning)
    args = _parser().parse_args(_protect_user(list(sys.argv[1:] if argv is None else argv)))
    args.began, args.hand_over = time.monotonic() if began is None else began, hand_over
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


def _protect_user(argv: list[str]) -> list[str]:
    """Let a user name stand for itself, also where it looks like an option.

    `authorized-keys USER [FINGERPRINT] [--deadline-s S]` is called with what a stranger typed.
    """
    if "authorized-keys" not in argv:
        return argv
    at = argv.index("authorized-keys") + 1
    options, rest = argv[:at], argv[at:]
    if rest in (["-h"], ["--help"]) or (rest[:1] == ["--deadline-s"] and rest[2:3] == ["--"]):
        return argv
    if len(rest) > 2 and rest[-2] == "--deadline-s":
        options, rest = [*options, *rest[-2:]], rest[:-2]
    return [*options, "--", *rest]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eic-agent",
        description="The instance side of EC2 Instance Connect.",
        epilog="Manual pages: eic-agent(8), eic-agent.toml(5).",
    )
    parser.add_argument("--version", action="version", version=f"eic-agent {__version__}")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration, with config.d/*.toml beside it (default: {config.DEFAULT_PATH})",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("authorized-keys", help="answer one lookup of sshd's")
    _add_question(command)
    command.add_argument("--deadline-s", type=float, metavar="S", help="seconds that are left")
    command.set_defaults(run=_authorized_keys)

    command = commands.add_parser("serve", help="answer lookups on a socket until idle")
    command.add_argument(
        "--socket", type=Path, metavar="PATH", help="listen here (default: on systemd's socket)"
    )
    command.add_argument(
        "--standby", action="store_true", help="in the agent's stead: leave soon when idle"
    )
    command.set_defaults(run=_serve)

    command = commands.add_parser("status", help="say whether the running agent is ready")
    command.add_argument("--socket", type=Path, metavar="PATH", default=Path(client.SOCKET))
    form = command.add_mutually_exclusive_group()
    form.add_argument("--counters", action="store_true", help="what it has counted")
    form.add_argument("--json", action="store_true", help="all of it as data")
    form.add_argument("--openmetrics", action="store_true", help="the counters for a scraper")
    command.set_defaults(run=_status)

    command = commands.add_parser("explain", help="say whether a login would get in, and why not")
    _add_question(command)
    command.add_argument("--socket", type=Path, metavar="PATH", default=Path(client.SOCKET))
    form = command.add_mutually_exclusive_group()
    form.add_argument("--verbose", action="store_true", help="with all that the steps found")
    form.add_argument("--json", action="store_true", help="the same as data")
    command.set_defaults(run=_explain)

    command = commands.add_parser("doctor", help="check everything, and say what to do")
    command.add_argument("--user", metavar="USER", help="also whether sshd lets this user in")
    command.add_argument("--socket", type=Path, metavar="PATH", default=Path(client.SOCKET))
    command.add_argument("--json", action="store_true", help="the same as data")
    command.set_defaults(run=_doctor)

    command = commands.add_parser("audit", help="show who came in, by which IAM principal")
    command.add_argument("--since", metavar="TIME", help="as journalctl takes it: today, -2h, ...")
    command.add_argument("--until", metavar="TIME", help="likewise")
    command.add_argument("--user", metavar="USER", help="only logins of this OS user")
    command.add_argument(
        "--caller",
        metavar="PATTERN",
        help="only of principals that this shell pattern matches, or that contain this text",
    )
    command.add_argument(
        "--refused", action="store_true", help="also keys that did not become a login, and why"
    )
    command.add_argument(
        "--all", action="store_true", help="also logins not through Instance Connect"
    )
    command.add_argument(
        "--cloudtrail",
        type=Path,
        metavar="PATH",
        action="append",
        default=[],
        help="compare with CloudTrail's records in this file or directory",
    )
    command.add_argument(
        "--directory", type=Path, metavar="DIR", help="read the journal files there"
    )
    command.add_argument("--json", action="store_true", help="one JSON object a line")
    command.add_argument("--follow", action="store_true", help="wait for logins and show each")
    command.set_defaults(run=_audit)

    command = commands.add_parser("whoami", help="show the IAM principal of this session")
    command.add_argument(
        "--session", type=int, metavar="PID", help="of the session that this process runs in"
    )
    command.add_argument("--json", action="store_true", help="the same as data")
    command.set_defaults(run=_whoami)

    command = commands.add_parser("sshd", help="the wiring in sshd's configuration")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("status", help="say whom sshd asks, and what is in the way")
    action.add_argument("--json", action="store_true", help="the same as data")
    action.set_defaults(run=_sshd_status)
    action = actions.add_parser("enable", help="make sshd ask eic-agent")
    action.add_argument(
        "--edit-main-file",
        action="store_true",
        help="where sshd reads no drop-in first, include ours from a block in its main file",
    )
    action.add_argument(
        "--permit-environment",
        action="store_true",
        help="let sessions have the variables of keys.export_caller (PermitUserEnvironment EIC_*)",
    )
    action.add_argument(
        "--unless-disabled",
        action="store_true",
        help="not where an administrator disabled it (for package scripts)",
    )
    action.set_defaults(run=_sshd_enable)
    action = actions.add_parser("disable", help="undo that, byte for byte")
    action.add_argument(
        "--for-removal",
        action="store_true",
        help="without a mark for later installations (for package scripts)",
    )
    action.set_defaults(run=_sshd_disable)

    command = commands.add_parser("config", help="check or show the configuration")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("check", help="say what is wrong with it, if anything is")
    action.add_argument("--user", metavar="USER", help="say whether this OS user may have keys")
    action.add_argument("--caller", metavar="ARN", help="and whether this principal may push them")
    action.set_defaults(run=_config_check)
    action = actions.add_parser("show", help="print the merged result")
    action.add_argument("--origin", action="store_true", help="say which file gave each value")
    action.set_defaults(run=_config_show)
    return parser


def _add_question(command: argparse.ArgumentParser) -> None:
    command.add_argument("user", metavar="USER", help="the OS user who logs in")
    command.add_argument(
        "fingerprint",
        nargs="?",
        metavar="FINGERPRINT",
        help="of the key that is offered, as sshd's %%f gives it (default: every key)",
    )


def _load(args: argparse.Namespace) -> config.Loaded:
    if args.config is not None:
        return config.load(args.config, must_exist=True)
    return config.load(config.DEFAULT_PATH)


def _question(args: argparse.Namespace) -> Question:
    """Say what is asked, and by which sshd: the client's parent where the client runs us."""
    told = os.environ.get("EIC_SSHD_PID", "")
    sshd_pid = int(told) if re.fullmatch("[0-9]{1,10}", told) else os.getppid()
    return Question(args.user, args.fingerprint or None, sshd_pid)


def _build_authorizer(
    settings: config.Config,
    journal: Journal,
    workers: ThreadPoolExecutor,
    counters: Counters,
    users: UserDatabase,
    ends: Deadline = NEVER,
    memory: Memory | None = None,
) -> Authorizer:
    metadata = MetadataClient(settings.imds.endpoint, settings.imds.timeout_s)
    deadline_s = settings.imds.deadline_s
    partitions = tuple(map(configured_partition, settings.identity.regions))
    rules = Rules(
        settings.policy,
        settings.trust,
        settings.identity.sysfs_root,
        deadline_s,
        partitions,
        record_required=settings.log.required,
    )
    return Authorizer(metadata, rules, journal, time.time, workers, counters, users, ends, memory)


def _authorized_keys(args: argparse.Namespace) -> int:
    """Answer one lookup in this process; stdout gets authorized_keys lines and nothing else."""
    question = _question(args)
    try:
        loaded = _load(args)
    except ConfigError as error:
        with closing(open_journal()) as journal:
            if not journal.on_stderr:  # what is said there is said below
                journal.problem(Reason.INVALID_CONFIG, str(error), user=question.user)
        return _undecided(Reason.INVALID_CONFIG, str(error))
    settings = loaded.config
    deadline = _deadline(args, settings.imds)
    users = UserDatabase()
    believed = not settings.log.required or _is_believed(users, deadline)
    journal = open_journal(settings.log.level, believed=believed)
    with closing(journal), ThreadPoolExecutor(1) as workers:
        if loaded.warnings:
            journal.problem(Reason.INVALID_CONFIG, "\n".join(loaded.warnings))
        authorizer = _build_authorizer(settings, journal, workers, Counters(), users, deadline)
        answer = authorizer.lookup(question, deadline)
        if answer.undecided is None or not journal.on_stderr:  # or it would be said twice there
            answer = authorizer.record(question, answer, deadline)
        if not _print_lines(answer.lines):
            authorizer.undelivered(answer)
    if answer.undecided is not None:
        return _undecided(answer.undecided, answer.detail)
    return 0


def _is_believed(users: UserDatabase, deadline: Deadline) -> bool:
    """Say whether readers of the journal believe what this process writes (eic-agent(8))."""
    if os.geteuid() == 0:
        return True
    try:
        return users.user_ids(["eic-agent"], deadline)["eic-agent"] == os.geteuid()
    except UsersUnavailable:
        return False


def _deadline(args: argparse.Namespace, imds: config.ImdsConfig) -> Deadline:
    """Give the moment by which a lookup in this process must be over.

    Starting has taken a while, which a slow machine is granted up to `start_s`; after that a
    lookup may take as long as any other, and no longer than who asks will wait.
    """
    told = os.environ.get("EIC_DEADLINE_MONOTONIC", "")
    latest = args.began + imds.start_s
    if re.fullmatch(r"[0-9]{1,10}\.[0-9]{1,6}", told):
        latest = min(latest, float(told))
    elif args.deadline_s is not None:
        latest = min(latest, args.began + args.deadline_s)
    return Deadline(latest).at_most(imds.deadline_s)


def _print_lines(lines: Sequence[str]) -> bool:
    """Write the lines to stdout; False where sshd did not wait for them."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except OSError:  # mostly BrokenPipeError
        sys.stdout = None  # or the interpreter would complain once more when it ends
        return False
    return True


def _undecided(reason: Reason, detail: str) -> int:
    sys.stderr.write(f"eic-agent: nothing decided: {explained(reason, detail)}\n")
    return 1


def _serve(args: argparse.Namespace) -> int:
    """Be the resident agent until SIGTERM or idle; an invalid configuration does not end it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what it asks for is about to be done
    try:
        listener = Listener.at(args.socket) if args.socket else Listener.inherited(os.environ)
    except NoSocket as error:
        print(f"eic-agent: {escape(str(error))}", file=sys.stderr)
        return 1
    started, counters, users, memory = time.monotonic(), Counters(), UserDatabase(), Memory()
    with closing(open_journal()) as journal, ThreadPoolExecutor(_FETCHERS) as workers:

        def load() -> Handlers:
            try:
                read_at = time.time()  # before: what is written meanwhile may not be in it
                return handlers_of(_load(args), read_at)
            except ConfigError as error:
                return without_configuration(error, journal, counters, started)

        def handlers_of(loaded: config.Loaded, read_at: float) -> Handlers:
            settings = loaded.config
            load_anchors(settings.trust.anchors)  # what cannot be used is found out now
            journal.set_level(settings.log.level)
            problems = list(loaded.warnings)
            uids = _client_uids(settings.agent.clients, users, problems)
            if problems:
                journal.problem(Reason.INVALID_CONFIG, "\n".join(problems), always=True)
            authorizer = _build_authorizer(
                settings, journal, workers, counters, users, memory=memory
            )
            agent = Agent(authorizer, journal, time.time, started, read_at)
            idle_exit_s = _STANDBY_IDLE_EXIT_S if args.standby else settings.agent.idle_exit_s
            return Handlers(
                agent.answer,
                agent.status,
                uids,
                settings.imds.deadline_s,
                idle_exit_s,
                settings.imds.start_s,
                authorizer.metadata.close,
                # Without a cache nothing can be proved ahead.
                upkeep=Upkeep(authorizer, journal, settings.imds.deadline_s)
                if settings.trust.max_cache_s
                else None,
            )

        notifier = Notifier(os.environ)
        pressure = Pressure.told(os.environ)
        gc.freeze()  # what has been imported stays, so nobody need look whether it is garbage
        Service(
            listener,
            load,
            load(),
            journal,
            notifier,
            hand_over=args.hand_over,
            pressure=pressure,
        ).run()
    return 0


def _client_uids(names: Sequence[str], users: UserDatabase, problems: list[str]) -> frozenset[int]:
    """Give the ids of `[agent] clients`; nobody is waited for long, and who is missing is told."""
    try:
        found = users.user_ids(names, Deadline.after(_CLIENTS_S))
    except UsersUnavailable as error:
        problems.append(f"agent.clients are not answered until a reload: {error}")
        return frozenset()
    problems += [f"agent.clients: no user {name!r}" for name, uid in found.items() if uid is None]
    return frozenset(uid for uid in found.values() if uid is not None)


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
        settings = _load(args).config
    except ConfigError as error:
        return undecided(question, Reason.INVALID_CONFIG, str(error)).data(), seen_by
    deadline = Deadline.after(settings.imds.deadline_s)
    with closing(open_journal()) as journal, ThreadPoolExecutor(1) as workers:
        authorizer = _build_authorizer(
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
                return _build_authorizer(loaded.config, journal, workers, Counters(), users)

            yield from instance.look(lambda: _load(args), build, unit, read_at)

    checks = (
        *sshd.checks(system, args.user, time.time()),
        *service.checks(system.paths.systemd, running),
    )
    diagnosis = doctor.diagnose(checks, as_agent)
    print(json.dumps(diagnosis.data(), indent=2) if args.json else diagnosis.text())
    return diagnosis.exit_status


def _agent_uid() -> int | None:
    """Give the id of the user that the agent runs as. Raises UsersUnavailable."""
    return UserDatabase().user_ids(["eic-agent"], Deadline.after(_CLIENTS_S))["eic-agent"]


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
    found = config_check.check(lambda: _load(args), users, args.user, args.caller, unit)
    if whose_eyes is not None:
        found.problems.append(whose_eyes)
    print(config_check.text(found.problems), end="", file=sys.stderr)
    print(config_check.text(found.results), end="")
    return 0 if found.ok else 1


def _config_show(args: argparse.Namespace) -> int:
    try:
        loaded = _load(args)
    except ConfigError as error:
        print("\n".join(escape(line) for line in str(error).splitlines()), file=sys.stderr)
        return 1
    print(config.show(loaded.config, loaded.origins if args.origin else None), end="")
    return 0

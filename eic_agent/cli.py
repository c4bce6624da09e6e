"""`eic-agent`: runs one command; the two that logins wait for are composed here, on the clock.

What operators run is in operators.py, imported only then: a login waits for the rest.
"""

import argparse
import gc
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from eic_agent.arguments import parser, protect_user
from eic_agent.composition import build_authorizer, load
from eic_agent.configuration import config
from eic_agent.errors import ConfigError, Reason, UsersUnavailable
from eic_agent.journal.entries import escape
from eic_agent.journal.writer import open_journal
from eic_agent.lookup.anchors import load_anchors
from eic_agent.lookup.authorizer import Counters
from eic_agent.lookup.memory import Memory
from eic_agent.lookup.question import Question
from eic_agent.lookup.users import UserDatabase
from eic_agent.metadata.deadline import Deadline
from eic_agent.resident.agent import Agent, explained, without_configuration
from eic_agent.resident.limits import Handlers
from eic_agent.resident.listener import Listener, NoSocket
from eic_agent.resident.notify import Notifier
from eic_agent.resident.pressure import Pressure
from eic_agent.resident.service import Service
from eic_agent.resident.upkeep import Upkeep

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
    args = parser().parse_args(protect_user(list(sys.argv[1:] if argv is None else argv)))
    args.began, args.hand_over = time.monotonic() if began is None else began, hand_over
    if args.command == "authorized-keys":
        return _authorized_keys(args)
    if args.command == "serve":
        return _serve(args)
    from eic_agent.operators import COMMANDS

    return COMMANDS[args.command](args)


def _question(args: argparse.Namespace) -> Question:
    """Say what is asked, and by which sshd: the client's parent where the client runs us."""
    told = os.environ.get("EIC_SSHD_PID", "")
    sshd_pid = int(told) if re.fullmatch("[0-9]{1,10}", told) else os.getppid()
    return Question(args.user, args.fingerprint or None, sshd_pid)


def _authorized_keys(args: argparse.Namespace) -> int:
    """Answer one lookup in this process; stdout gets authorized_keys lines and nothing else."""
    question = _question(args)
    try:
        loaded = load(args.config)
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
        authorizer = build_authorizer(settings, journal, workers, Counters(), users, deadline)
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

        def take_up() -> Handlers:
            try:
                read_at = time.time()  # before: what is written meanwhile may not be in it
                return handlers_of(load(args.config), read_at)
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
            authorizer = build_authorizer(
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
            take_up,
            take_up(),
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

"""The system's user and group database, asked so that nobody hangs where it does.

Each question goes to a process of its own (accounts.py), which is killed when its time is up. A
thread would not do: one that hangs in a module of the name service can never be ended, holds the
module's locks against all others, and `getgrouplist` holds the interpreter's lock besides.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eic_agent.errors import UsersUnavailable
from eic_agent.metadata.deadline import Deadline

_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from eic_agent.lookup.accounts import main
main(sys.argv[2:])
"""
_PACKAGES = str(Path(__file__).parents[2])

_QUIET = (
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
)
_MOST_BYTES = 16 << 20
_MOST_HANGING = 1000  # questions that are remembered
# Processes at a time. A user is asked about once at a time, so that many of them who hang are as
# many different users; each process takes 3 MiB.
_AT_ONCE = 16
# A process that is killed is gone at once, unless the kernel itself hangs for it.
_PAUSES_S = (0.0, 0.001, 0.01, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Group:
    """A group of a user's; there may be no name for its id."""

    gid: int
    name: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """A user as the database has it; the primary group is among the groups."""

    uid: int
    groups: tuple[Group, ...] = ()


class UserDatabase:
    """Asks about users and groups; safe to use from many threads at once.

    Everything raises UsersUnavailable where there is no answer by the deadline.
    """

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        """`at_once` is how many questions are asked at a time; the others wait for their turn.

        Of these, a quarter is for questions that had no answer when they were asked before: users
        for whom the database hangs, whom any stranger may name, leave the rest to the others.
        """
        self._turns = threading.Semaphore(at_once)
        self._turns_of_hanging = threading.Semaphore(max(1, at_once // 4))
        self._hanging: set[tuple[str, ...]] = set()
        # Processes that did not end, each with the turns that it keeps.
        self._left_behind: list[tuple[int, list[threading.Semaphore]]] = []

    def account(self, user: str, deadline: Deadline) -> Account | None:
        """Give a user's id and groups; None for a user who does not exist."""
        uid, *groups = self._ask("account", (user,), deadline) or ("",)
        if not uid:
            return None
        pairs = zip(groups[::2], groups[1::2], strict=True)
        return Account(int(uid), tuple(Group(int(gid), name or None) for gid, name in pairs))

    def user_ids(self, names: Sequence[str], deadline: Deadline) -> dict[str, int | None]:
        """Give each user's id; None for one who does not exist."""
        return self._ids("users", names, deadline)

    def group_ids(self, names: Sequence[str], deadline: Deadline) -> dict[str, int | None]:
        """Give each group's id; None for one that does not exist."""
        return self._ids("groups", names, deadline)

    def everybody(self, deadline: Deadline) -> dict[str, int]:
        """Give name and id of every user that can be listed; a directory's mostly cannot."""
        fields = self._ask("everybody", (), deadline)
        return dict(zip(fields[::2], map(int, fields[1::2]), strict=True))

    def _ids(self, verb: str, names: Sequence[str], deadline: Deadline) -> dict[str, int | None]:
        if not names:
            return {}
        ids = self._ask(verb, names, deadline)
        return {name: int(id_) if id_ else None for name, id_ in zip(names, ids, strict=True)}

    def _ask(self, verb: str, names: Sequence[str], deadline: Deadline) -> list[str]:
        question = (verb, *names)
        about = f"the user database, asked for {' '.join(question)}"
        self._bury()
        turns = [self._turns]
        if question in self._hanging:
            turns.insert(0, self._turns_of_hanging)
        with contextlib.ExitStack() as taken:
            for turn in turns:
                if not turn.acquire(timeout=min(deadline.remaining(), threading.TIMEOUT_MAX)):
                    raise UsersUnavailable(f"{about}, is busy with what it does not answer")
                taken.callback(turn.release)
            try:
                answer, pid = _answer(verb, names, deadline)
            except OSError as error:
                raise UsersUnavailable(f"{about}, could not be asked: {error.strerror}") from None
            if not _end(pid):
                taken.pop_all()
                self._left_behind.append((pid, turns))
        count, *fields = answer.split("\0")[:-1] or ("",)
        if count != str(len(fields)):
            if len(self._hanging) >= _MOST_HANGING:
                self._hanging.clear()
            self._hanging.add(question)
            raise UsersUnavailable(f"{about}, gave no answer in time")
        self._hanging.discard(question)
        return fields

    def _bury(self) -> None:
        """Give back the turns of processes that have ended at last."""
        for left in self._left_behind.copy():
            pid, turns = left
            if _end(pid, pauses_s=(0.0,)):
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._left_behind.remove(left)
                    for turn in turns:
                        turn.release()


def _answer(verb: str, names: Sequence[str], deadline: Deadline) -> tuple[str, int]:
    """Start the process; give what it has written by the deadline, and its id."""
    reading, writing = os.pipe()
    try:
        try:
            pid = _start(verb, names, deadline.remaining(), writing)
        finally:
            os.close(writing)
        try:
            return _read(reading, deadline), pid
        except OSError:
            _end(pid)
            raise
    finally:
        os.close(reading)


def _start(verb: str, names: Sequence[str], seconds: float, output: int) -> int:
    # At least one number that the kernel takes for a time; 0 would be for ever.
    limit = f"{min(max(seconds, 0.001), 3600.0):.3f}"
    python = sys.executable or "/usr/bin/python3"
    options = ("-I", "-S", "-B", "-c", _PROGRAM, _PACKAGES)
    return os.posix_spawn(
        python,
        [os.fsencode(python), *map(os.fsencode, (*options, limit, verb)), *map(_argument, names)],
        {},
        file_actions=[*_QUIET, (os.POSIX_SPAWN_DUP2, output, 1)],
        setsigmask=(),
    )


def _argument(name: str) -> bytes:
    """Give a name as the argument of a program; of one that can be none, a name that nobody has."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return b""
    return b"" if b"\0" in encoded else encoded


def _read(pipe: int, deadline: Deadline) -> str:
    """Give what comes until the other end closes, or until the deadline."""
    received = b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while len(received) < _MOST_BYTES:
        if not poll.poll(min(deadline.remaining(), 3600.0) * 1000):
            break
        data = os.read(pipe, 65536)
        if not data:
            break
        received += data
    return os.fsdecode(received)


def _end(pid: int, pauses_s: Sequence[float] = _PAUSES_S) -> bool:
    """Kill a child, if it has not ended by itself; False where it does not end even so."""
    try:
        for pause_s in pauses_s:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return True
            os.kill(pid, signal.SIGKILL)
            time.sleep(pause_s)
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except (ProcessLookupError, ChildProcessError):  # our own parent has it reaped by the kernel
        return True


def exists(user: str) -> bool:
    """Say whether the system knows the user. Raises UsersUnavailable after 10 seconds."""
    return UserDatabase().user_ids((user,), Deadline.after(10))[user] is not None

"""Against this machine's own user and group database."""

import contextlib
import grp
import os
import pwd
import threading
from pathlib import Path

import pytest

from eic_agent.errors import UsersUnavailable
from eic_agent.lookup import users
from eic_agent.lookup.users import Group, UserDatabase, exists
from eic_agent.metadata.deadline import Deadline

NO_NAMES = [
    "no-such-user",
    "",
    "\0",
    "root\0",
    "a\nb",
    "\ud800",
    chr(0xDCFF),
    "\U0001f600",
    "x" * 9999,
]


def soon() -> Deadline:
    return Deadline.after(60)


def test_groups_of_every_user_are_those_of_the_database() -> None:
    for entry in pwd.getpwall():
        gids = {group.gr_gid for group in grp.getgrall() if entry.pw_name in group.gr_mem}
        expected = {Group(gid, name_of(gid)) for gid in gids | {entry.pw_gid}}
        account = UserDatabase().account(entry.pw_name, soon())
        assert account is not None
        assert account.uid == entry.pw_uid
        assert set(account.groups) == expected


def name_of(gid: int) -> str | None:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return None


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_user_who_does_not_exist_has_no_account(name: str) -> None:
    assert UserDatabase().account(name, soon()) is None
    assert not exists(name)


def test_many_names_are_asked_at_once() -> None:
    me, group = pwd.getpwuid(0), grp.getgrgid(0)
    database = UserDatabase()
    assert database.user_ids((me.pw_name, *NO_NAMES), soon()) == {
        me.pw_name: 0,
        **dict.fromkeys(NO_NAMES),
    }
    assert database.group_ids((group.gr_name, "none"), soon()) == {group.gr_name: 0, "none": None}
    assert database.user_ids((), soon()) == {}
    assert database.everybody(soon()) == {e.pw_name: e.pw_uid for e in pwd.getpwall()}
    assert exists(me.pw_name)


def test_a_name_too_long_to_be_asked_for_is_no_answer() -> None:
    with pytest.raises(UsersUnavailable, match="could not be asked"):
        UserDatabase().account("x" * 1_000_000, soon())


def test_without_time_there_is_no_answer() -> None:
    with pytest.raises(UsersUnavailable, match="gave no answer in time"):
        UserDatabase().account("root", Deadline.after(0))


def test_without_a_turn_there_is_no_answer_and_a_turn_comes_back() -> None:
    database = UserDatabase(at_once=1)
    with pytest.raises(UsersUnavailable, match="in time"):
        database.account("root", Deadline.after(0))
    assert database.account("root", soon()) is not None
    assert database._turns.acquire(blocking=False)
    with pytest.raises(UsersUnavailable, match="busy with what it does not answer"):
        database.account("root", Deadline.after(0.01))


def test_an_answer_that_breaks_off_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("", "print(1)", "print('3\\0root\\0', end='')", "raise SystemExit(1)"):
        monkeypatch.setattr(users, "_PROGRAM", program)
        with pytest.raises(UsersUnavailable):
            UserDatabase().account("root", soon())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nobody_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a process nor a descriptor, also of questions that were given up."""
    database = UserDatabase()
    database.account("root", soon())
    before = descriptors()
    monkeypatch.setattr(users, "_PROGRAM", "import time; time.sleep(1000)")
    for _ in range(3):
        with pytest.raises(UsersUnavailable):
            database.account("root", Deadline.after(0.1))
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_process_that_even_the_kernel_cannot_end_keeps_its_turn_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = UserDatabase(at_once=1)
    monkeypatch.setattr(users, "_end", lambda *_args, **_kwargs: False)
    assert database.account("root", soon()) is not None
    with pytest.raises(UsersUnavailable, match="busy"):
        database.account("root", Deadline.after(0.01))
    monkeypatch.undo()
    assert database.account("root", soon()) is not None


def test_who_hangs_again_and_again_leaves_turns_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = "import sys, time\nif 'stuck' in sys.argv[-1]: time.sleep(1000)\nprint(end='0\\0')"
    monkeypatch.setattr(users, "_PROGRAM", program)
    database = UserDatabase(at_once=4)

    def hang(seconds: float) -> list[threading.Thread]:
        def ask(name: str) -> None:
            with pytest.raises(UsersUnavailable):
                database.account(name, Deadline.after(seconds))

        threads = [threading.Thread(target=ask, args=(f"stuck{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        return threads

    for thread in hang(0.5):
        thread.join(60)
    again = hang(5)
    for _ in range(3):
        assert database.account("alice", soon()) is None
        assert all(thread.is_alive() for thread in again)
    for thread in again:
        thread.join(60)
    monkeypatch.setattr(users, "_PROGRAM", "print(end='0\\0')")
    assert database.account("stuck0", soon()) is None
    assert ("account", "stuck0") not in database._hanging


def test_many_threads_get_each_their_answer() -> None:
    database, wrong = UserDatabase(at_once=3), []

    def ask(user: str) -> None:
        account = database.account(user, soon())
        if account is None or account.uid != pwd.getpwnam(user).pw_uid:
            wrong.append(user)

    threads = [
        threading.Thread(target=ask, args=(e.pw_name,)) for e in pwd.getpwall()[:10] for _ in "12"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong

"""Against this machine's own user and group database."""

import contextlib
import grp
import os
import pwd

import pytest

from eic_agent.lookup.users import exists, group_names


def test_groups_of_every_user_are_those_of_the_database() -> None:
    for entry in pwd.getpwall():
        expected = {group.gr_name for group in grp.getgrall() if entry.pw_name in group.gr_mem}
        with contextlib.suppress(KeyError):  # a primary group without a name
            expected.add(grp.getgrgid(entry.pw_gid).gr_name)
        assert group_names(entry.pw_name) == expected


def test_the_primary_group_is_included() -> None:
    me = pwd.getpwuid(0)
    assert grp.getgrgid(me.pw_gid).gr_name in group_names(me.pw_name)


@pytest.mark.parametrize(
    "name",
    ["no-such-user", "", "\0", "root\0", "a\nb", "\ud800", chr(0xDCFF), "\U0001f600", "x" * 9999],
)
def test_a_user_who_does_not_exist_is_in_no_group(name: str) -> None:
    assert group_names(name) == frozenset()
    assert not exists(name)


def test_a_user_who_exists_is_known() -> None:
    assert exists(pwd.getpwuid(0).pw_name)


def test_a_group_without_a_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    unused = max(group.gr_gid for group in grp.getgrall() if group.gr_gid < 2**31) + 1
    monkeypatch.setattr(os, "getgrouplist", lambda _user, _gid: [0, unused])
    assert group_names("root") == {grp.getgrgid(0).gr_name}

"""The join: what becomes a row, whatever else the journal holds."""

import io
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from eic_agent.reports import evidence, journalctl
from eic_agent.reports import logins as logins_module
from eic_agent.reports.logins import Logins
from eic_agent.reports.rows import Row, Spool
from tests.reports.journals import (
    AGENT_UID,
    CALLER,
    KEY,
    OTHER_KEY,
    RECORDED,
    USER_UID,
    Writer,
    export,
)

KEY_ID = "ID x from 6.6.6.6 port 1 ssh2: ED25519 SHA256:x (serial 7) CA RSA SHA256:y"
Rows = list[dict[str, Any]]


def rows(exported: bytes, *, agent_uid: int = AGENT_UID, is_open: bool = False) -> Rows:
    """Every row of a journal, in order."""
    with closing(Spool(lambda _: True)) as spool:
        logins = Logins(spool)
        believer, origins = evidence.Believer({("", agent_uid)}), evidence.Origins()
        for entry in journalctl.entries(io.BufferedReader(io.BytesIO(exported))):
            event = believer.event(entry)
            if event is not None:
                logins.take(event, evidence.moment(entry), origins(entry))
        logins.finish(lambda _boot, _pid: is_open)
        return list(spool.rows())


def of(writer: Writer) -> Rows:
    return rows(export(writer.entries))


def kinds(found: Rows) -> list[str]:
    return [row["kind"] for row in found]


@pytest.mark.parametrize(("release", "agent_uid"), [("debian12", 997), ("debian13", 995)])
def test_recorded_logins_give_exactly_their_rows(release: str, agent_uid: int) -> None:
    """A push, a key in a file, a refused one, a push without the agent, a session that stays.

    OpenSSH 9.2 on Debian 12, and 10.0 with its sshd-session on Debian 13.
    """
    found = rows((RECORDED / f"{release}.export").read_bytes(), agent_uid=agent_uid)
    assert kinds(found) == ["login", "other-login", "login", "login"]
    for row in found:
        assert (row["user"], row["address"], row["end"]) == ("alice", "127.0.0.1", "closed")
        assert 0 < row["lasted_s"] < 5
        assert (row["principal"] == CALLER) == (row["kind"] == "login")
        assert (row["request"] is not None) == (row["kind"] == "login")
    assert len({row["pid"] for row in found}) == 4


def test_a_login_has_what_is_known_of_it() -> None:
    writer = Writer()
    writer.login(200)
    (row,) = of(writer)
    assert row == {
        "kind": "login",
        "time": "2026-11-18T11:06:43.000000Z",
        "host": "host",
        "machine": "a" * 32,
        "boot": "b" * 32,
        "pid": 200,
        "user": "alice",
        "method": "publickey",
        "address": "203.0.113.7",
        "port": 50123,
        "fingerprint": KEY,
        "certificate": None,
        "principal": CALLER,
        "request": "2bcc936c-8a83-4096-9000-000000000001",
        "instance": "i-0123456789abcdef0",
        "session": None,
        "audit_session": None,
        "reason": None,
        "detail": None,
        "times": 1,
        "late_s": 0.0,
        "end": "closed",
        "ended": "2026-11-18T11:07:14.000000Z",
        "lasted_s": 31.0,
    }


def test_a_grant_without_proof_is_no_login() -> None:
    """Somebody offered the public half of a key that was pushed."""
    writer = Writer()
    writer.agent("granted", 200)
    writer.sshd(200, "Connection closed by authenticating user alice 192.0.2.9 port 4242 [preauth]")
    (row,) = of(writer)
    assert (row["kind"], row["address"], row["port"]) == ("unproved", "192.0.2.9", 4242)


def test_a_login_with_another_key_after_a_grant_is_not_ours() -> None:
    writer = Writer()
    writer.agent("granted", 200, KEY)
    writer.accepted(200, OTHER_KEY)
    assert sorted(kinds(of(writer))) == ["other-login", "unproved"]


def test_the_grant_of_another_process_explains_nothing() -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.accepted(201)
    assert sorted(kinds(of(writer))) == ["other-login", "unproved"]


@pytest.mark.parametrize(
    "line",
    [
        "Accepted password for alice from 203.0.113.7 port 50123 ssh2",
        "Accepted keyboard-interactive/pam for alice from 203.0.113.7 port 50123 ssh2",
        f"Accepted publickey for alice from 203.0.113.7 port 50123 ssh2: RSA-CERT {KEY} {KEY_ID}",
    ],
)
def test_other_methods_are_not_ours_though_a_key_was_granted(line: str) -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.sshd(200, line)
    row = next(row for row in of(writer) if row["kind"] != "unproved")
    assert (row["kind"], row["address"], row["port"]) == ("other-login", "203.0.113.7", 50123)


def test_a_key_that_was_proved_before_a_second_factor_is_a_login() -> None:
    """AuthenticationMethods publickey,keyboard-interactive at LogLevel VERBOSE."""
    writer = Writer()
    writer.agent("granted", 200)
    writer.sshd(200, f"Partial publickey for alice from 203.0.113.7 port 50123 ssh2: ED25519 {KEY}")
    writer.sshd(200, "Accepted keyboard-interactive/pam for alice from 203.0.113.7 port 50123 ssh2")
    (row,) = of(writer)
    assert (row["kind"], row["method"]) == ("login", "publickey,keyboard-interactive/pam")


def test_a_process_id_that_comes_back_is_another_process() -> None:
    writer = Writer()
    writer.login(200)
    writer.later(3600)
    writer.accepted(200)
    writer.later(5)
    writer.closed(200)
    assert kinds(of(writer)) == ["login", "other-login"]


def test_a_session_whose_end_was_not_logged_ends_where_its_process_id_comes_back() -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.accepted(200)
    writer.later(3600)
    writer.login(200, OTHER_KEY)
    first, second = of(writer)
    assert (first["end"], first["lasted_s"]) == ("unknown", None)
    assert (second["end"], second["lasted_s"]) == ("closed", 31.0)


def test_a_reboot_ends_sessions_and_the_same_process_id_is_another_process() -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.accepted(200)
    writer.agent("granted", 300)
    writer.reboot()
    writer.accepted(300)
    writer.closed(200)
    found = of(writer)
    assert sorted(kinds(found)) == ["login", "other-login", "unproved"]
    assert next(row for row in found if row["kind"] == "login")["end"] == "reboot"


@pytest.mark.parametrize("step_s", [-86400.0, 86400.0])
def test_a_clock_that_steps_changes_no_row_and_no_duration(step_s: float) -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.now_s += step_s
    writer.accepted(200)
    writer.now_s -= step_s
    writer.later(30)
    writer.closed(200)
    (row,) = of(writer)
    assert (row["kind"], row["lasted_s"]) == ("login", 31.0)


def test_a_grant_that_journald_took_after_sshds_line_still_explains_it() -> None:
    writer = Writer()
    writer.accepted(200)
    writer.agent("granted", 200)
    writer.agent("granted", 200)
    assert kinds(of(writer)) == ["login"]


def test_a_grant_written_late_explains_a_login_that_is_over() -> None:
    writer = Writer()
    writer.accepted(200)
    writer.later(5)
    writer.closed(200)
    writer.later(300)
    writer.agent("granted", 200, EIC_LATE="308.500")
    (row,) = of(writer)
    assert (row["kind"], row["principal"], row["late_s"]) == ("login", CALLER, 308.5)
    assert row["lasted_s"] == 6.0


def test_a_grant_long_after_a_login_is_not_the_grant_of_it() -> None:
    writer = Writer()
    writer.accepted(200)
    writer.later(300)
    writer.agent("granted", 200)
    assert sorted(kinds(of(writer))) == ["other-login", "unproved"]


def test_a_key_that_sshd_was_not_told_of_explains_nothing() -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.agent(None, 200, EIC_UNDELIVERED="1")
    writer.accepted(200)
    assert "login" not in kinds(of(writer))


def test_what_was_refused_is_told_once_for_each_process() -> None:
    writer = Writer()
    writer.agent("refused", 200)
    writer.agent("refused", 200)
    writer.sshd(
        200,
        "Failed publickey for invalid user x from 6.6.6.6 port 1 ssh2: y "
        "from 192.0.2.9 port 4242 ssh2: ED25519 SHA256:z",
    )
    writer.agent("refused", 201)
    found = of(writer)
    assert [(row["kind"], row["reason"], row["times"]) for row in found] == [
        ("refused", "expired", 2),
        ("refused", "expired", 1),
    ]
    assert (found[0]["address"], found[0]["port"]) == ("192.0.2.9", 4242)


def test_logind_names_the_session_and_ends_it() -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.accepted(200)
    logind = {
        "_TRANSPORT": "journal",
        "SYSLOG_IDENTIFIER": "systemd-logind",
        "_UID": "0",
        "_SYSTEMD_UNIT": "systemd-logind.service",
        "SESSION_ID": "7",
        "LEADER": "200",
    }
    writer.write(**logind, MESSAGE_ID="8d45620c1a4348dbb17410da57c60c66")
    writer.later(60)
    writer.write(**logind, MESSAGE_ID="3354939424b4456d9802ca8333ed424a")
    (row,) = of(writer)
    assert (row["session"], row["end"], row["lasted_s"]) == ("7", "closed", 62.0)


def test_a_session_that_runs_is_open() -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.accepted(200)
    (row,) = rows(export(writer.entries), is_open=True)
    assert (row["end"], row["ended"]) == ("open", None)


@pytest.mark.parametrize("unit", ["ssh.service", "sshd.service", "ssh@1-10.0.0.1:22.service", None])
def test_a_field_that_journald_could_not_read_condemns_no_line(unit: str | None) -> None:
    writer = Writer()
    writer.agent("granted", 200)
    writer.accepted(200, _EXE=None, _SYSTEMD_UNIT=unit)
    writer.closed(200, _EXE=None, _SYSTEMD_UNIT="session-3.scope")
    assert kinds(of(writer)) == ["login"]


FORGERIES: dict[str, Callable[[Writer], None]] = {
    "our fields by logger --journald": lambda w: w.agent(
        "granted", 200, _UID=str(USER_UID), _SYSTEMD_UNIT="session-3.scope"
    ),
    "a unit of a user's own with our name": lambda w: w.agent(
        "granted",
        200,
        _UID=str(USER_UID),
        _SYSTEMD_UNIT="user@1000.service",
        _SYSTEMD_USER_UNIT="eic-agent.service",
    ),
    "sshd's line by the syslog socket": lambda w: w.accepted(
        200, _UID=str(USER_UID), _EXE="/usr/bin/logger"
    ),
    "sshd's line within sshd's own unit": lambda w: w.accepted(
        200, _UID=str(USER_UID), _SYSTEMD_UNIT="ssh.service"
    ),
    "a program of a user's own named sshd": lambda w: w.accepted(
        200, _UID=str(USER_UID), _COMM="sshd", _EXE="/home/alice/sshd", _SYSTEMD_UNIT="ssh.service"
    ),
    "sudo called by the name sshd, over a stream": lambda w: w.accepted(
        200, _TRANSPORT="stdout", _COMM="sshd", _EXE="/usr/bin/sudo"
    ),
    "sudo called by the name sshd, over syslog": lambda w: w.accepted(
        200, _COMM="sshd", _EXE="/usr/bin/sudo", _SYSTEMD_UNIT="ssh.service"
    ),
    "another of root's, gone before journald looked": lambda w: w.accepted(
        200, _EXE=None, _SYSTEMD_UNIT="cron.service"
    ),
    "the end of a session": lambda w: w.closed(200, _UID=str(USER_UID)),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_entries_change_no_row(forgery: str) -> None:
    """Each before a login, within it, and after it, of the same process id and key."""
    honest = Writer()
    honest.login(200)
    expected = of(honest)

    (granted, *_), accepted = honest.entries[:2], honest.entries[2]
    assert accepted["MESSAGE"]
    for place in range(len(honest.entries) + 1):
        forged = Writer()
        FORGERIES[forgery](forged)
        (entry,) = forged.entries
        near = honest.entries[max(place - 1, 0)]
        for stamp in ("__REALTIME_TIMESTAMP", "__MONOTONIC_TIMESTAMP"):
            entry[stamp] = near[stamp]
        entries = [*honest.entries[:place], entry, *honest.entries[place:]]
        assert rows(export(entries)) == expected
    assert granted


def test_fields_that_come_twice_are_not_believed() -> None:
    entry = b"_PID=1\n_PID=2\nMESSAGE=x\n\n"
    (fields,) = journalctl.entries(io.BufferedReader(io.BytesIO(entry)))
    assert fields == {b"MESSAGE": b"x"}


def test_any_value_is_read_to_its_end_and_the_next_entry_after_it() -> None:
    values = [b"\n\n_UID=0\n\n", b"a\nb=c", b"\n" * 10, bytes(range(256)), b"x\n" * 100_000]
    writer = Writer()
    for value in values:
        writer.write(MESSAGE=value)
        writer.write(MESSAGE="between")
    stream = io.BufferedReader(io.BytesIO(export(writer.entries)))
    messages = [entry[b"MESSAGE"] for entry in journalctl.entries(stream)]
    assert messages[1::2] == [b"between"] * len(values)
    assert messages[:-2:2] == values[:-1]
    assert messages[-2] == values[-1][:65536]


class Nowhere:
    """A ledger that keeps nothing."""

    def begin(self, row: Row) -> None: ...

    def explained(self, row: Row) -> None: ...

    def done(self, row: Row) -> None: ...


def test_memory_stays_bounded_whatever_never_ends() -> None:
    """Processes of which nothing more is heard."""
    writer = Writer()
    writer.accepted(1)
    writer.agent("refused", 1)
    logins = Logins(Nowhere())
    believer, origins = evidence.Believer({("", AGENT_UID)}), evidence.Origins()
    accepted, refused = (
        {name.encode(): str(value).encode() for name, value in entry.items()}
        for entry in writer.entries
    )
    for pid in range(25_000):
        for entry in (
            accepted | {b"_PID": b"%d" % pid},
            refused | {b"EIC_SSHD_PID": b"%d" % (200_000 + pid)},
        ):
            event = believer.event(entry)
            assert event is not None
            logins.take(event, evidence.moment(entry), origins(entry))
    (boot,) = logins._boots.values()
    assert len(boot.sessions) == logins_module._MOST_SESSIONS
    assert len(boot.pending) == logins_module._MOST_PENDING
    assert len(boot.lately) == logins_module._MOST_LATELY

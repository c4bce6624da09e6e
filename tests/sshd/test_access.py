"""Whether sshd lets one user in by our answer; the real sshd says what holds for that user."""

import os
import time
from pathlib import Path

import pytest

from eic_agent.sshd import access
from tests.sshd.conftest import Machine

NOW = time.time()


def asked(machine: Machine, user: str = "root") -> access.Access:
    return access.find(machine.system, user, NOW)


def test_a_wired_sshd_asks_us(machine: Machine) -> None:
    assert asked(machine).asks is False
    machine.enable()
    found = asked(machine)
    assert (found.asks, found.problems) == (True, ())
    assert found.name == "root"
    assert str(machine.drop_in) in str(found.set_at)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PubkeyAuthentication no", "PubkeyAuthentication"),
        ("PermitRootLogin no", "PermitRootLogin"),
        ("PermitRootLogin forced-commands-only", "PermitRootLogin"),
        ("AuthenticationMethods password", "AuthenticationMethods"),
        ("AllowUsers alice bob@192.0.2.7", "AllowUsers"),
        ("DenyUsers alice r?ot", "DenyUsers"),
        ("AllowGroups wheel", "AllowGroups"),
        ("DenyGroups roo*", "DenyGroups"),
        ("Match User root\n  AuthorizedKeysCommand /usr/bin/false", "/usr/bin/false"),
        ("Match User root\n  AuthorizedKeysCommand none", "is none"),
        ("Match Group root\n  PubkeyAuthentication no", "PubkeyAuthentication"),
        ("PubkeyAuthentication perhaps", "does not accept"),
    ],
)
def test_what_keeps_a_user_out_is_named(machine: Machine, text: str, said: str) -> None:
    machine.enable()
    main = machine.system.paths.main
    main.write_text(f"{main.read_text()}{text}\n")
    found = asked(machine)
    assert found.asks is False
    assert said in found.problems[0].what
    assert found.problems[0].remedy


@pytest.mark.parametrize(
    "text",
    [
        "AllowUsers alice root",
        "AllowUsers r*t",
        "AllowGroups root",
        "Match User alice\n  PubkeyAuthentication no",
        "AuthenticationMethods publickey password",
        "PermitRootLogin prohibit-password",
    ],
)
def test_what_keeps_nobody_out_is_no_problem(machine: Machine, text: str) -> None:
    machine.enable()
    main = machine.system.paths.main
    main.write_text(f"{main.read_text()}{text}\n")
    assert asked(machine).asks is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AllowUsers root@192.0.2.*", "where the user comes from"),
        ("Match Address 10.0.0.0/8\n  PubkeyAuthentication no", "where the user comes from"),
        ("AuthenticationMethods publickey,password", "the key alone"),
    ],
)
def test_what_may_keep_a_user_out_is_remarked(machine: Machine, text: str, said: str) -> None:
    machine.enable()
    main = machine.system.paths.main
    main.write_text(f"{main.read_text()}{text}\n")
    found = asked(machine)
    assert found.asks is True
    assert any(said in remark.what for remark in found.remarks)


@pytest.mark.parametrize("user", ["nobody-here", "0", "a,b", "-x", ""])
def test_who_is_no_user_is_asked_about_by_nobody(machine: Machine, user: str) -> None:
    machine.enable()
    (problem,) = asked(machine, user).problems
    assert "no user" in problem.what


def test_a_user_without_a_shell_gets_no_session(machine: Machine) -> None:
    machine.enable()
    assert "shell" in asked(machine, "nobody").problems[0].what


def test_a_client_that_others_can_write_is_not_run(machine: Machine, tmp_path: Path) -> None:
    machine.enable()
    own = tmp_path / "client"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o777)
    text = machine.drop_in.read_text().replace(
        "AuthorizedKeysCommand ", f"AuthorizedKeysCommand {own} ", 1
    )
    machine.drop_in.write_text(text)
    assert "refuses to run" in asked(machine).problems[0].what


def _shadow(expires: str = "", password: str = "*") -> tuple[str, ...]:
    return ("alice", password, "20000", "0", "99999", "7", "", expires, "")


@pytest.mark.parametrize(
    ("shadow", "pam", "said"),
    [
        (_shadow(expires="1"), "yes", "expired"),
        (_shadow(expires=str(int(NOW // 86400) + 1)), "yes", ""),
        (_shadow(password="!"), "no", "locked"),
        (_shadow(password="!"), "yes", ""),
    ],
)
def test_an_expired_or_locked_account_is_named(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    shadow: tuple[str, ...],
    pam: str,
    said: str,
) -> None:
    account = access.Account("root", 0, "/bin/sh", ("root",), shadow)
    monkeypatch.setattr(access, "_account", {"root": account}.get)
    main = machine.system.paths.main
    main.write_text(main.read_text().replace("UsePAM yes", f"UsePAM {pam}"))
    machine.enable()
    problems = asked(machine).problems
    assert bool(problems) is bool(said)
    assert not said or said in problems[0].what


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_what_is_not_seen_is_claimed_neither_way(machine: Machine) -> None:
    machine.enable()
    machine.system.paths.main.chmod(0o600)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        found = access.find(machine.system, "root", NOW)
        os._exit(0 if found.asks is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

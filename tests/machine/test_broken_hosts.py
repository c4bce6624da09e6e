"""Ways to break a working host, each alone: doctor names it, and explain says what sshd does."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.machine.instance import CONFIG_DIRECTORY, Instance, simulated
from tests.machine.machine import Machine, until

CLIENT = "/usr/libexec/eic-agent/eic-authorized-keys"
OTHERS = "/etc/ssh/sshd_config.d/00-aaa.conf"
RELOAD = "systemctl reload ssh.service"


@dataclass(frozen=True)
class Breakage:
    """What breaks the host, what mends it, and how much of that reaches alice."""

    breaks: str
    mends: str
    check: str  # the check of doctor's that names it
    said: str  # a part of what it says
    logs_in: bool = False
    level: str = "error"


def drop_in(text: str) -> tuple[str, str]:
    """Put a file before ours, and take it away again."""
    return f"printf '{text}' > {OTHERS}; {RELOAD}", f"rm {OTHERS}; {RELOAD}"


BREAKAGES = {
    "another command in a drop-in before ours": Breakage(
        *drop_in("AuthorizedKeysCommand /bin/false\\nAuthorizedKeysCommandUser root\\n"),
        "user alice",
        "/bin/false",
    ),
    "a Match block": Breakage(
        *drop_in("Match User alice\\n  AuthorizedKeysCommand none\\n"), "user alice", "is none"
    ),
    "keys off": Breakage(
        *drop_in("PubkeyAuthentication no\\n"), "user alice", "PubkeyAuthentication"
    ),
    "AllowUsers": Breakage(*drop_in("AllowUsers bob\\n"), "user alice", "AllowUsers"),
    "DenyGroups": Breakage(*drop_in("DenyGroups alice\\n"), "user alice", "DenyGroups"),
    "AuthenticationMethods": Breakage(
        *drop_in("AuthenticationMethods keyboard-interactive\\n"), "user alice", "Methods"
    ),
    "no drop-in": Breakage(
        f"eic-agent sshd disable; {RELOAD}", "eic-agent sshd enable", "sshd asks", "sshd"
    ),
    "an unsafe client": Breakage(
        f"chmod 0777 {CLIENT}", f"chmod 0755 {CLIENT}", "sshd asks", "refuses to run"
    ),
    "a client of somebody else's": Breakage(
        f"chown alice {CLIENT}", f"chown root {CLIENT}", "sshd asks", "refuses to run"
    ),
    "an expired account": Breakage(
        "chage --expiredate 1 alice", "chage --expiredate -1 alice", "user alice", "expired"
    ),
    "a nologin shell": Breakage(
        "usermod --shell /usr/sbin/nologin alice",
        "usermod --shell /bin/bash alice",
        "user alice",
        "shell",
    ),
    "a shell that does not exist": Breakage(
        "usermod --shell /bin/zsh-5 alice", "usermod --shell /bin/bash alice", "user alice", "shell"
    ),
    "nologin for all": Breakage("touch /etc/nologin", "rm /etc/nologin", "user alice", "nologin"),
    "a file that the agent may not read": Breakage(
        f"echo > {CONFIG_DIRECTORY}/60-x.toml; chmod 0600 {CONFIG_DIRECTORY}/60-x.toml; "
        "systemctl restart eic-agent.service",
        f"rm {CONFIG_DIRECTORY}/60-x.toml; systemctl restart eic-agent.service",
        "configuration",
        "60-x.toml",
    ),
    "anchors that are not there": Breakage(
        f"""printf '[trust]\\nanchors = "/nothing.pem"\\n' > {CONFIG_DIRECTORY}/60-x.toml; """
        "systemctl restart eic-agent.service",
        f"rm {CONFIG_DIRECTORY}/60-x.toml; systemctl restart eic-agent.service",
        "configuration",
        "/nothing.pem",
    ),
    "metadata behind a firewall": Breakage(
        "ip address del 169.254.169.254/32 dev lo; ip route add blackhole 169.254.169.254; "
        "systemctl restart eic-agent.service",
        "ip route del blackhole 169.254.169.254; ip address add 169.254.169.254/32 dev lo",
        "metadata",
        "",
    ),
    "a stopped socket": Breakage(
        "systemctl stop eic-agent.socket eic-agent.service",
        "systemctl start eic-agent.socket eic-agent.service",
        "units",
        "is inactive",
        logs_in=True,
    ),
    "a file of the package changed": Breakage(
        "echo >> /usr/bin/eic-agent",
        "sed -i '$d' /usr/bin/eic-agent",
        "files of the package",
        "/usr/bin/eic-agent",
        logs_in=True,
    ),
}


@pytest.fixture(scope="module")
def host(
    installed: Path, image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    directory = tmp_path_factory.mktemp("host")
    with Machine("broken", installed, image) as machine, simulated(machine, directory) as instance:
        machine.run("systemctl", "restart", "eic-agent.service")
        yield instance


def doctor(host: Instance) -> list[dict[str, Any]]:
    done = host.machine.run("eic-agent", "doctor", "--user=alice", "--json", check=False)
    data = json.loads(done.stdout)
    assert data["well"] is (done.returncode == 0)
    found: list[dict[str, Any]] = data["findings"]
    return found


def explained(host: Instance) -> bool:
    return host.machine.run("eic-agent", "explain", "alice", check=False).returncode == 0


def test_on_an_unbroken_host_doctor_says_nothing_but_ok(host: Instance) -> None:
    until(lambda: host.push_and_log_in("alice").returncode == 0, "a login")
    assert [one for one in doctor(host) if one["level"] != "ok"] == []


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_way_to_break_a_host_is_named_and_nobody_promises_a_login(
    host: Instance, name: str
) -> None:
    breakage = BREAKAGES[name]
    host.machine.sh(breakage.breaks)
    try:
        logged_in = host.push_and_log_in("alice").returncode == 0
        assert logged_in is breakage.logs_in
        assert explained(host) is logged_in
        found = [one for one in doctor(host) if one["level"] == breakage.level]
        named = [one for one in found if one["check"] == breakage.check]
        assert any(breakage.said in one["what"] and one["remedy"] for one in named), found
    finally:
        host.machine.sh(breakage.mends)
    until(lambda: host.push_and_log_in("alice").returncode == 0, "that it is mended")
    assert explained(host)

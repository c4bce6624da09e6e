"""A day of logins on a whole machine, and an unprivileged user who lies to audit and whoami."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eic_sandbox.simulator import CALLER
from tests.machine.instance import Identity, Instance
from tests.machine.machine import until
from tests.reports.forgeries import ADDRESS, FORGERIES, SENDER

AUDIT_DOCUMENT = (Path(__file__).parents[2] / "docs/audit.md").read_text()

Row = dict[str, Any]


def audit(instance: Instance, *options: str) -> list[Row]:
    """Every row that the machine's own journal gives."""
    instance.machine.run("journalctl", "--sync")
    done = instance.machine.run("eic-agent", "audit", "--json", *options)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def everything(instance: Instance) -> list[Row]:
    return audit(instance, "--all", "--refused")


def key_file(identity: Identity) -> Path:
    path = identity.instance.directory / f"key-{identity.key.fingerprint[-10:].replace('/', '_')}"
    path.write_bytes(identity.key.private_openssh)
    path.chmod(0o600)
    return path


def log_in(identity: Identity, command: str) -> subprocess.CompletedProcess[str]:
    """Log in and run a command there."""
    return identity.instance.machine.ssh(identity.user, key_file(identity), command)


class Stays:
    """A session that lasts until it is told to end."""

    def __init__(self, identity: Identity) -> None:
        machine = identity.instance.machine
        ssh = ["ssh", "-F", "none", "-i", str(key_file(identity)), f"{identity.user}@127.0.0.1"]
        for option in ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no"):
            ssh += ["-o", option]
        ssh += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        self._ssh = subprocess.Popen(
            ["nsenter", f"--net=/proc/{machine.leader}/ns/net", "--", *ssh, "echo $$; read end"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._ssh.stdout is not None
        self.pid = int(self._ssh.stdout.readline())

    def end(self) -> None:
        self._ssh.communicate("\n", timeout=30)


@pytest.fixture
def session(instance: Instance) -> Iterator[Stays]:
    stays = Stays(instance.push("alice"))
    yield stays
    stays.end()


def test_a_day_of_logins_gives_exactly_their_rows(instance: Instance) -> None:
    machine = instance.machine
    pushed = instance.push("alice")
    assert pushed.log_in().stdout == "alice\n"
    in_file = instance.authorized_in_file("bob")
    assert in_file.log_in().stdout == "bob\n"
    expired = instance.push("alice")
    expired.block.expires = int(time.time()) - 5
    assert expired.log_in().returncode == 255

    stays = Stays(instance.push("alice"))
    machine.run("journalctl", "--rotate")
    stays.end()

    machine.sh("systemctl stop 'eic-agent*.socket' 'eic-agent*.service'")
    alone = instance.push("bob")
    assert alone.log_in().stdout == "bob\n"
    machine.sh("systemctl start eic-agent.socket")

    certified = _certified(instance)
    assert certified.log_in().stdout == "alice\n"

    last = Stays(instance.push("alice"))
    instance.reboot()
    last.end()
    again = instance.push("alice")
    assert again.log_in().stdout == "alice\n"

    found = everything(instance)
    for row in found:
        assert (row["principal"] == CALLER) == (row["kind"] == "login")
        assert row["address"] == "127.0.0.1"
    assert [(row["kind"], row["user"], row["fingerprint"]) for row in found] == [
        ("login", "alice", pushed.key.fingerprint),
        ("other-login", "bob", in_file.key.fingerprint),
        ("refused", "alice", expired.key.fingerprint),
        ("login", "alice", found[3]["fingerprint"]),
        ("login", "bob", alone.key.fingerprint),
        ("other-login", "alice", certified.key.fingerprint),
        ("login", "alice", found[6]["fingerprint"]),
        ("login", "alice", again.key.fingerprint),
    ]
    assert found[0]["request"] == pushed.block.request
    assert found[2]["reason"] == "expired"
    assert "day" in found[5]["certificate"]
    assert [row["end"] for row in found if row["kind"] != "refused"].count("closed") >= 6
    assert len({row["boot"] for row in found}) == 2


def _certified(instance: Instance) -> Identity:
    """A key that a CA of the machine's vouches for."""
    identity = Identity(instance, "alice", instance.push("nobody").key)
    ca = instance.directory / "ca"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ca], check=True)
    instance.machine.copy_in(ca.with_suffix(".pub"), "/etc/ssh/ca.pub")
    instance.machine.write(
        "/etc/ssh/sshd_config.d/50-ca.conf", "TrustedUserCAKeys /etc/ssh/ca.pub\n"
    )
    instance.machine.run("systemctl", "reload", "ssh.service")
    path = instance.directory / f"id-{identity.key.fingerprint[-10:].replace('/', '_')}"
    public = path.with_name(f"{path.name}.pub")
    public.write_text(identity.key.line + "\n")
    sign = ["ssh-keygen", "-q", "-s", str(ca), "-I", "a day", "-n", "alice", "-V", "+1h"]
    subprocess.run([*sign, str(public)], check=True)
    return identity


def test_what_an_unprivileged_user_forges_changes_no_row(
    instance: Instance, session: Stays
) -> None:
    machine = instance.machine
    (login,) = everything(instance)
    assert (login["kind"], login["end"]) == ("login", "open")
    machine.write("/home/alice/send.py", SENDER)
    machine.run("chown", "alice:", "/home/alice/send.py")
    settings = (
        f"export HOME=/home/alice PID={login['pid']} KEY={login['fingerprint']} "
        f"REQUEST={login['request']} OTHER=SHA256:{'A' * 43}; cd; "
    )
    for number, script in enumerate(FORGERIES.values()):
        machine.write(f"/home/alice/forge/{number}.sh", settings + script)
    forge = "for script in /home/alice/forge/*.sh; do bash $script; done"
    machine.run("bash", "-c", forge, user="alice", check=False)
    assert everything(instance) == [login]

    # Without logind a session runs in sshd's own unit.
    within = instance.authorized_in_file("alice")
    log_in(within, forge)
    first, other = everything(instance)
    assert first == login
    assert (other["kind"], other["user"]) == ("other-login", "alice")
    forged = [
        *machine.journal("EIC_USER=root"),
        *(e for e in machine.journal("SYSLOG_IDENTIFIER=sshd") if ADDRESS in str(e)),
    ]
    assert len(forged) >= 16, "the forged entries are in the journal"
    assert any(entry.get("_SYSTEMD_UNIT") == "ssh.service" for entry in forged)


def test_whoami_names_the_principal_of_each_session_or_says_why_not(
    instance: Instance, session: Stays
) -> None:
    machine = instance.machine
    for user in ("alice", "bob"):
        machine.run("usermod", "--append", "--groups", "systemd-journal", user)
    in_session = log_in(instance.push("alice"), "eic-agent whoami; bash -c 'eic-agent whoami'")
    assert in_session.stdout.count(f"{CALLER}\n") == 2, in_session.stderr
    lying = log_in(
        instance.authorized_in_file("bob"),
        "export EIC_CALLER=x; cp $(command -v bash) sshd; ./sshd -c 'eic-agent whoami; exit $?'",
    )
    assert (lying.returncode, lying.stdout) == (1, "")
    assert "did not come through Instance Connect" in lying.stderr

    named = machine.run("eic-agent", "whoami", "--json", "--session", str(session.pid))
    found = json.loads(named.stdout)
    assert (found["principal"], found["user"], found["end"]) == (CALLER, "alice", "open")
    nobody = machine.run("eic-agent", "whoami", check=False)
    assert (nobody.returncode, nobody.stdout) == (1, "")

    machine.run("gpasswd", "--delete", "bob", "systemd-journal")
    without = machine.run("eic-agent", "whoami", user="bob", check=False)
    assert without.returncode == 1
    assert "adm" in without.stderr


def test_sudos_log_names_the_principal(instance: Instance) -> None:
    """As docs/audit.md says."""
    machine = instance.machine
    script = re.search(r"    #!/bin/sh\n(?:    .*\n)+", AUDIT_DOCUMENT)
    line = re.search(r"^    (session optional pam_exec.so .*)$", AUDIT_DOCUMENT, re.MULTILINE)
    assert script is not None
    assert line is not None
    machine.write("/usr/local/sbin/log-principal", re.sub("(?m)^    ", "", script[0]), 0o755)
    machine.sh(f"echo '{line[1]}' >> /etc/pam.d/sudo")
    machine.write("/etc/sudoers.d/alice", "alice ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    assert log_in(instance.push("alice"), "sudo id -un").stdout == "root\n"
    entry = until(lambda: machine.journal("SYSLOG_IDENTIFIER=sudo-principal"), "sudo's log")[0]
    assert entry["MESSAGE"] == f"alice as root: {CALLER}"
    assert entry["_UID"] == "0"

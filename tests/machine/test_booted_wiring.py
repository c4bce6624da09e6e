"""The wiring on booted machines: real units, real reloads, real logins."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eic_agent
from tests.machine.machine import Machine, until

CLIENT = "/usr/libexec/eic-agent/eic-authorized-keys"
AWS_SCRIPT = "/usr/share/ec2-instance-connect/eic_run_authorized_keys"
AWS_DROP_IN = "/usr/lib/systemd/system/ssh.service.d/ec2-instance-connect.conf"
# As Ubuntu's package has it.
AWS_UNIT = f"""\
[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -o "AuthorizedKeysCommand {AWS_SCRIPT} %%u %%f" \
-o "AuthorizedKeysCommandUser root" $SSHD_OPTS
"""
ETC = "find /etc -printf '%P %y %m %U %G ' -type f -exec sha256sum {} + -o -printf '%l\\n'"
MAIN_PID = "systemctl show --property=MainPID --value ssh.service"


class Wired:
    """A booted machine with the wiring's code, and a client that knows one key."""

    def __init__(self, machine: Machine, identity: Path) -> None:
        self.machine = machine
        self.identity = identity
        public = identity.with_suffix(".pub").read_text()
        machine.copy_in(Path(eic_agent.__file__).parent, "/opt/eic/eic_agent")
        machine.write(CLIENT, f"#!/bin/sh\necho '{public.strip()}'\n", 0o755)
        machine.run("useradd", "--system", "eic-agent")

    def call(
        self, function: str, *, as_user: str | None = None, **arguments: bool
    ) -> dict[str, Any]:
        """Call a function of eic_agent.sshd there, and return what it returns."""
        script = (
            "import dataclasses, json, sys\n"
            "sys.path.insert(0, '/opt/eic')\n"
            "from eic_agent.sshd.status import find as status\n"
            "from eic_agent.sshd.survey import System\n"
            "from eic_agent.sshd.wiring import disable, enable\n"
            f"got = {function}(System(), **{arguments})\n"
            "print(json.dumps(dataclasses.asdict(got)))\n"
        )
        found: dict[str, Any] = json.loads(
            self.machine.run("python3", "-c", script, user=as_user).stdout
        )
        return found

    def logs_in(self) -> bool:
        return self.machine.ssh("alice", self.identity).returncode == 0

    @contextlib.contextmanager
    def session(self) -> "Iterator[subprocess.Popen[str]]":
        """Log in and stay, with a shell that reads from the process's input."""
        ssh = ["ssh", "-F", "none", "-i", str(self.identity), "-o", "BatchMode=yes"]
        ssh += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        inside = ["nsenter", f"--net=/proc/{self.machine.leader}/ns/net", "--"]
        with subprocess.Popen(
            [*inside, *ssh, "alice@127.0.0.1", "echo in; exec sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as session:
            assert session.stdout is not None
            assert session.stdout.readline() == "in\n"
            yield session

    def put_aws_unit(self) -> None:
        self.machine.write(AWS_SCRIPT, "#!/bin/sh\n", 0o755)
        self.machine.write(AWS_DROP_IN, AWS_UNIT)
        self.machine.sh("systemctl daemon-reload; systemctl restart ssh")

    def remove_aws_unit(self) -> None:
        self.machine.sh(f"rm -rf {Path(AWS_DROP_IN).parent}; systemctl daemon-reload")


@pytest.fixture(scope="module")
def wired(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    identity = tmp_path_factory.mktemp("wiring") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", identity], check=True)
    with Machine("wiring", image) as machine:
        yield Wired(machine, identity)


def test_a_running_sshd_is_reloaded_never_restarted_and_all_is_undone(wired: Wired) -> None:
    before = wired.machine.sh(ETC), wired.machine.sh(MAIN_PID)
    assert not wired.logs_in()
    outcome = wired.call("enable")
    assert outcome["ok"], outcome
    assert "reloaded ssh.service" in outcome["lines"]
    until(wired.logs_in, "a login by the client's key")
    assert wired.call("status")["problems"] == []
    outcome = wired.call("disable", by_admin=False)
    assert outcome["ok"], outcome
    until(lambda: not wired.logs_in(), "the end of logins by the client's key")
    assert (wired.machine.sh(ETC), wired.machine.sh(MAIN_PID)) == before


def test_a_stranger_is_told_nothing_that_he_cannot_see_and_holds_nobody_up(wired: Wired) -> None:
    assert wired.call("enable")["ok"]
    report = wired.call("status", as_user="alice")
    assert (report["asks_us"], report["command"], report["error"]) == (None, None, None)
    assert report["drop_in"] == "not seen"
    assert "not seen without root" in report["problems"][0]["what"]

    hold = "flock --exclusive /etc/ssh sleep 1000 & exec flock --exclusive /run sleep 1000"
    wired.machine.run("systemd-run", "--uid=alice", "--unit=hold", "sh", "-c", hold)
    sleeping = "pgrep -c -u alice sleep || true"  # each when it has its lock
    until(lambda: wired.machine.sh(sleeping) == "2\n", "the stranger's locks")
    passwd = "exec -a 'sshd: sshd -o AuthorizedKeysCommand=/x [listener] 0 of 10-100 startups' su"
    script = f'script -qc "bash -c \\"{passwd}\\"" /dev/null'
    wired.machine.run("systemd-run", "--uid=alice", "--unit=pose", "sh", "-c", script)
    until(lambda: "Command=/x" in wired.machine.sh("ps -u root -o args="), "the stranger's title")
    assert wired.call("disable", by_admin=False)["ok"]
    assert wired.call("enable")["ok"]
    wired.machine.run("systemctl", "stop", "hold", "pose")
    assert wired.call("disable", by_admin=False)["ok"]


def test_a_chained_command_that_is_not_run_is_in_the_journal(wired: Wired) -> None:
    wired.machine.write("/srv/theirs", "#!/bin/sh\necho key\n", 0o777)
    client = ["python3", "-I", "-S", "/opt/eic/eic_agent/client.py", "--socket", "/nowhere"]
    asked = [*client, "--agent", "/bin/false", "alice", "--chain", "/srv/theirs"]
    done = wired.machine.run(*asked, user="nobody", check=False)
    assert done.stdout == ""
    said = "the chained command /srv/theirs is not run, since /srv/theirs can be written by others"
    assert said in done.stderr
    (entry,) = wired.machine.journal("SYSLOG_IDENTIFIER=eic-agent", "PRIORITY=3")
    assert said in entry["MESSAGE"]
    assert entry["SYSLOG_FACILITY"] == "10"


def test_awss_package_is_recognised_and_its_end_waited_for(wired: Wired) -> None:
    wired.put_aws_unit()
    outcome = wired.call("enable")
    assert not outcome["ok"]
    assert AWS_DROP_IN in outcome["lines"][0]
    assert "Remove AWS's package ec2-instance-connect" in outcome["lines"][0]
    assert wired.call("status")["command"] == f"{AWS_SCRIPT} %u %f"

    wired.remove_aws_unit()  # and sshd runs on with its option
    outcome = wired.call("enable")
    assert outcome["ok"], outcome
    assert "only after a restart" in outcome["warnings"][0]
    assert not wired.logs_in()
    wired.machine.sh("systemctl restart ssh")
    assert wired.logs_in()
    assert wired.call("status")["problems"] == []
    assert wired.call("disable", by_admin=False)["ok"]


def test_units_are_read_where_systemd_does_not_run(wired: Wired) -> None:
    """As in the chroot in which an image is built."""
    wired.put_aws_unit()
    script = (
        "import pathlib, sys\n"
        "sys.path.insert(0, '/opt/eic')\n"
        "from eic_agent.sshd.launch import Systemd\n"
        "for one in Systemd(booted=pathlib.Path('/nowhere')).launches():\n"
        "    print(one.source, one.option('authorizedkeyscommand'))\n"
    )
    found = wired.machine.run("python3", "-c", script).stdout
    wired.remove_aws_unit()
    wired.machine.sh("systemctl restart ssh")
    assert f"{AWS_DROP_IN}, /etc/default/ssh) {AWS_SCRIPT} %u %f\n" in found


def test_a_socket_that_starts_sshd_goes_on_listening(wired: Wired) -> None:
    """Ubuntu's default; on Debian a reload would end an sshd that was started so."""
    wired.machine.sh("systemctl disable --now ssh.service; systemctl enable --now ssh.socket")
    wired.machine.sh("rm -rf /run/sshd")
    outcome = wired.call("enable")
    assert outcome["ok"], outcome
    assert outcome["warnings"] == []
    assert len(outcome["lines"]) == 1  # sshd does not run, there is nothing to tell
    assert wired.machine.run("test", "-e", "/run/sshd", check=False).returncode == 1
    assert wired.logs_in()

    with wired.session() as session:
        outcome = wired.call("disable", by_admin=False)
        assert outcome["warnings"] == []
        assert "ssh.socket starts ssh.service anew for the next connection" in outcome["lines"]
        assert not wired.logs_in()
        assert wired.call("enable")["ok"]
        assert wired.logs_in()
        assert session.communicate("echo still; exit 7\n", timeout=60)[0] == "still\n"
        assert session.returncode == 7
    assert wired.machine.sh("systemctl is-failed ssh.service || true") == "active\n"
    wired.call("disable", by_admin=False)
    wired.machine.sh("systemctl disable --now ssh.socket; systemctl enable --now ssh.service")


def test_a_machine_without_host_keys_is_wired(wired: Wired) -> None:
    """Images are baked without them."""
    keys = "/etc/ssh/ssh_host_*_key*"
    wired.machine.sh(f"mkdir /root/keys; cp -p {keys} /root/keys; rm {keys}; systemctl stop ssh")
    outcome = wired.call("enable")
    wired.machine.sh("cp -p /root/keys/* /etc/ssh; rm -r /root/keys; systemctl start ssh")
    assert outcome["ok"], outcome
    assert wired.logs_in()
    assert wired.call("disable", by_admin=False)["ok"]

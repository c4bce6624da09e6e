"""The socket and the service under systemd: how they start, what they may, and how they fail."""

import json
import re
import shlex
from collections.abc import Callable

import pytest

from eic_sandbox.simulator.simulator import ACTIVE_KEYS
from tests.machine.instance import CONFIG_DIRECTORY, Instance
from tests.machine.machine import Machine, until

SERVICE, SOCKET = "eic-agent.service", "eic-agent.socket"
STANDBY = "eic-agent-standby.service"
SOCKET_PATH = "/run/eic-agent/agent.sock"


def show(machine: Machine, unit: str, name: str) -> str:
    return machine.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()


def main_pid(machine: Machine) -> str:
    return show(machine, SERVICE, "MainPID")


def signer(machine: Machine) -> object:
    status = machine.run("eic-agent", "status", "--json", check=False).stdout
    return status and json.loads(status)["signer"]


def override(machine: Machine, *lines: str) -> None:
    """Change the service until the next boot, and stop it so that this counts."""
    machine.write(f"/run/systemd/system/{SERVICE}.d/50-test.conf", "\n".join(lines) + "\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "stop", SERVICE)


def override_no_more(machine: Machine) -> None:
    machine.run("rm", f"/run/systemd/system/{SERVICE}.d/50-test.conf")
    machine.run("systemctl", "daemon-reload")


def test_the_agent_starts_with_the_machine_and_asks_before_anybody_does(
    instance: Instance,
) -> None:
    machine = instance.machine
    assert show(machine, SOCKET, "ActiveState") == "active"
    assert show(machine, SERVICE, "ActiveState") == "active"
    first = main_pid(machine)
    # The metadata service comes after the boot here, so the agent has tried in vain.
    until(lambda: signer(machine), "the signer that nobody has asked for")
    instance.metadata.reset_counters()
    assert instance.push_and_log_in().returncode == 0
    assert instance.metadata.requests == {f"{ACTIVE_KEYS}alice/": 2}
    assert main_pid(machine) == first


def test_the_first_lookup_starts_an_agent_that_is_gone(instance: Instance) -> None:
    machine = instance.machine
    machine.run("systemctl", "stop", SERVICE)
    assert show(machine, SERVICE, "ActiveState") == "inactive"
    assert instance.push_and_log_in().returncode == 0
    assert show(machine, SERVICE, "ActiveState") == "active"
    first = main_pid(machine)
    assert instance.push_and_log_in().returncode == 0
    assert main_pid(machine) == first


def test_the_agent_leaves_when_idle_and_comes_back(instance: Instance) -> None:
    machine = instance.machine
    instance.configure("60-idle.toml", agent={"idle_exit_s": 0.5})
    assert instance.push_and_log_in().returncode == 0
    until(lambda: show(machine, SERVICE, "ActiveState") == "inactive", "the idle exit")
    assert show(machine, SERVICE, "Result") == "success"
    assert instance.push_and_log_in().returncode == 0
    assert instance.decisions()[-1]["_SYSTEMD_UNIT"] == SERVICE


def test_a_reload_takes_up_the_configuration(instance: Instance) -> None:
    machine = instance.machine
    assert instance.push_and_log_in().returncode == 0
    agent = main_pid(machine)

    instance.configure("60-policy.toml", policy={"deny_users": ["alice"]})
    machine.run("systemctl", "reload", SERVICE)
    until(lambda: instance.push_and_log_in("alice").returncode == 255, "the new policy")
    assert instance.decisions()[-1]["EIC_REASON"] == "user-not-allowed"

    assert instance.push_and_log_in("bob").returncode == 0
    assert main_pid(machine) == agent


def test_an_endpoint_that_the_unit_keeps_from_the_service_is_told_with_what_to_do(
    instance: Instance,
) -> None:
    machine = instance.machine
    assert "IPAddressAllow" not in machine.run("eic-agent", "config", "check").stderr
    instance.configure("60-elsewhere.toml", imds={"endpoint": "http://192.0.2.1"})
    said = machine.run("eic-agent", "config", "check").stderr
    assert "`IPAddressAllow=192.0.2.1`" in said
    override(machine, "[Service]", "IPAddressAllow=192.0.2.1")
    try:
        assert "IPAddressAllow" not in machine.run("eic-agent", "config", "check").stderr
    finally:
        override_no_more(machine)


def invalid_by_value(machine: Machine) -> None:
    machine.write(f"{CONFIG_DIRECTORY}/60-policy.toml", "[policy]\ndenied = []\n")


def unreadable_for_the_agent(machine: Machine) -> None:
    machine.write(f"{CONFIG_DIRECTORY}/60-policy.toml", "[policy]\n", mode=0o600)


@pytest.mark.parametrize("spoil", [invalid_by_value, unreadable_for_the_agent])
def test_a_reload_of_an_invalid_configuration_fails_and_no_key_is_granted_until_it_is_mended(
    instance: Instance, spoil: Callable[[Machine], None]
) -> None:
    """The same holds in the agent, in the lookup without it and after a restart."""
    machine = instance.machine
    assert instance.push_and_log_in().returncode == 0
    agent, in_file = main_pid(machine), instance.authorized_in_file("bob")

    spoil(machine)
    reload = machine.run("systemctl", "reload", SERVICE, check=False)
    assert reload.returncode != 0
    assert main_pid(machine) == agent
    until(lambda: instance.entries("EIC_REASON=invalid-config"), "the report of the error")
    assert "60-policy.toml" in instance.entries("EIC_REASON=invalid-config")[-1]["MESSAGE"]
    said = machine.run("systemctl", "status", "--no-pager", "--full", SERVICE, check=False).stdout
    assert "60-policy.toml" in said

    def all_refuse() -> None:
        assert instance.push_and_log_in("alice").returncode == 255
        assert in_file.log_in().stdout == "bob\n", "other keys go on working"
        shown = machine.run("eic-agent", "status", check=False)
        assert shown.returncode == 1
        assert "60-policy.toml" in shown.stdout

    all_refuse()
    machine.run("systemctl", "kill", "--signal=STOP", SERVICE)
    assert instance.push_and_log_in("alice").returncode == 255, "the lookup without the agent"
    machine.run("systemctl", "kill", "--signal=CONT", SERVICE)
    machine.run("systemctl", "restart", SERVICE)
    all_refuse()

    machine.run("rm", f"{CONFIG_DIRECTORY}/60-policy.toml")
    machine.run("systemctl", "reload", SERVICE)
    until(lambda: instance.push_and_log_in("alice").returncode == 0, "that it is mended")
    assert machine.run("eic-agent", "status").returncode == 0


# Listens where the agent should, and never says anything.
MUTE = f"""
import os, socket, time
with socket.socket(socket.AF_UNIX) as s:
    s.bind({SOCKET_PATH!r})
    os.chmod({SOCKET_PATH!r}, 0o666)
    s.listen()
    time.sleep(1000)
"""
REPLACE_BY_MUTE = f"""
systemctl stop {SOCKET} {SERVICE}
systemd-run --quiet --unit=mute python3 -c {shlex.quote(MUTE)}
until [ -S {SOCKET_PATH} ]; do sleep 0.05; done
"""

# What is done to the agent, which unit then answers, and what brings the agent back. Only where the
# socket of the agent that stands by is closed, too, does sshd's client do the lookup itself.
BREAKAGES = {
    "killed": (f"systemctl kill --signal=KILL {SERVICE}", SERVICE, ""),
    "stopped": (f"systemctl stop {SERVICE}", SERVICE, ""),
    "frozen": (
        f"systemctl kill --signal=STOP {SERVICE}",
        STANDBY,
        f"systemctl kill --signal=CONT {SERVICE}",
    ),
    "closed": (f"systemctl stop {SOCKET} {SERVICE}", "ssh.service", f"systemctl start {SOCKET}"),
    "unlinked": (f"rm {SOCKET_PATH}", STANDBY, f"systemctl restart {SOCKET}"),
    "mute": (REPLACE_BY_MUTE, "ssh.service", f"systemctl stop mute; systemctl restart {SOCKET}"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_login_succeeds_whatever_happens_to_the_agent(instance: Instance, breakage: str) -> None:
    break_it, answering, repair = BREAKAGES[breakage]
    assert instance.push_and_log_in().returncode == 0
    instance.machine.sh(break_it)
    assert instance.push_and_log_in().stdout == "alice\n"
    assert instance.decisions()[-1]["_SYSTEMD_UNIT"] == answering
    instance.machine.sh(repair)
    assert instance.push_and_log_in().stdout == "alice\n"
    assert instance.decisions()[-1]["_SYSTEMD_UNIT"] == SERVICE


def test_a_frozen_agent_is_replaced_by_the_watchdog(instance: Instance) -> None:
    machine = instance.machine
    assert instance.push_and_log_in().returncode == 0
    assert show(machine, SERVICE, "WatchdogUSec") not in ("", "0", "infinity")
    override(machine, "[Service]", "WatchdogSec=1", "TimeoutAbortSec=1")
    assert instance.push_and_log_in().returncode == 0
    frozen = main_pid(machine)
    machine.run("systemctl", "kill", "--signal=STOP", SERVICE)
    assert instance.push_and_log_in().returncode == 0
    until(lambda: main_pid(machine) not in ("0", frozen), "a new agent", 60)
    assert instance.push_and_log_in().returncode == 0
    assert instance.decisions()[-1]["_SYSTEMD_UNIT"] == SERVICE


def test_an_agent_that_is_fed_lives_on_under_the_watchdog(instance: Instance) -> None:
    """It sends what WatchdogSec= asks for, also while nobody asks anything of it."""
    machine = instance.machine
    override(machine, "[Service]", "WatchdogSec=1")
    assert instance.push_and_log_in().returncode == 0
    agent = main_pid(machine)
    began = machine.run("cut", "-d.", "-f1", "/proc/uptime").stdout
    until(
        lambda: int(machine.run("cut", "-d.", "-f1", "/proc/uptime").stdout) - int(began) > 3,
        "several times the watchdog's time",
    )
    assert main_pid(machine) == agent


def test_no_number_of_failed_starts_closes_the_socket(instance: Instance) -> None:
    machine = instance.machine
    override(machine, "[Service]", "ExecStart=", "ExecStart=/bin/false")
    failures = 0
    for _ in range(10):
        asked = machine.run("/usr/libexec/eic-agent/eic-authorized-keys", "alice", user="eic-agent")
        assert asked.returncode == 0
    failures = len(machine.journal("UNIT=" + SERVICE, "UNIT_RESULT=exit-code"))
    assert failures >= 10
    assert show(machine, SOCKET, "ActiveState") == "active"
    assert instance.push_and_log_in().returncode == 0
    override_no_more(machine)
    assert instance.push_and_log_in().returncode == 0
    assert instance.decisions()[-1]["_SYSTEMD_UNIT"] == SERVICE


def test_the_running_agent_holds_no_privilege(instance: Instance) -> None:
    machine = instance.machine
    assert instance.push_and_log_in().returncode == 0
    status = dict(
        line.split(":\t", 1)
        for line in machine.sh(f"cat /proc/{main_pid(machine)}/status").splitlines()
        if ":\t" in line
    )
    capabilities = {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert capabilities == {"0" * 16}
    uid = machine.run("id", "--user", "eic-agent").stdout.strip()
    assert uid != "0"
    assert status["Uid"].split() == [uid] * 4
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


# Run in the agent's place, under its unit, by whoever has taken the agent over: it tells what
# happened to each attempt, "done" or the name of the error.
PROBE = r"""
import ctypes, errno, json, mmap, os, pathlib, signal, socket

libc = ctypes.CDLL(None, use_errno=True)

def system_call(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), "")

def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(3)
        s.connect(address)

def listen():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))

def read(path):
    with open(path, "rb") as f:
        f.read(1)

def write(path):
    with open(path, "wb") as f:
        f.write(b"x")

attempts = {
    "metadata": lambda: connect(socket.AF_INET, ("169.254.169.254", 80)),
    "sshd": lambda: connect(socket.AF_INET, ("127.0.0.1", 22)),
    "sshd over IPv6": lambda: connect(socket.AF_INET6, ("::1", 22)),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "write /etc": lambda: write("/etc/probe"),
    "write /etc/eic-agent": lambda: write("/etc/eic-agent/config.d/99-probe.toml"),
    "write /usr": lambda: write("/usr/lib/eic-agent/probe.py"),
    "write /var": lambda: write("/var/lib/probe"),
    "read home": lambda: read("/home/alice/secret"),
    "read root's": lambda: read("/root/secret"),
    "read shadow": lambda: read("/etc/shadow"),
    "become root": lambda: os.setuid(0),
    "signal init": lambda: os.kill(1, 0),
    "write code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC).close(),
    "mount": lambda: system_call(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None)),
    "trace": lambda: system_call(libc.ptrace(0, 0, 0, 0)),
    "new namespace": lambda: system_call(libc.unshare(0x10000000)),
}
for name, attempt in attempts.items():
    try:
        attempt()
        result = "done"
    except TimeoutError:
        result = "timeout"
    except OSError as error:
        result = errno.errorcode[error.errno]
    print(json.dumps([name, result]), flush=True)
"""


def test_whoever_takes_the_agent_over_can_do_nothing_but_ask_for_metadata(
    instance: Instance,
) -> None:
    machine = instance.machine
    machine.write("/srv/probe.py", PROBE)
    machine.sh("echo x | tee /home/alice/secret /root/secret; chmod 644 /home/alice/secret")
    machine.sh("chmod 755 /home/alice")
    override(
        machine,
        *("[Service]", "Type=oneshot", "Restart=no", "WatchdogSec=0"),
        *("ExecStart=", "ExecStart=/usr/bin/python3 /srv/probe.py"),
    )
    machine.run("systemctl", "restart", SERVICE, check=False)
    printed = machine.journal("_SYSTEMD_UNIT=" + SERVICE, "_TRANSPORT=stdout")
    lines = [entry["MESSAGE"] for entry in printed]  # before the probe's those of reloads
    results = dict(json.loads(line) for line in lines if line.startswith("["))
    assert {name for name, result in results.items() if result == "done"} == {"metadata"}
    assert len(results) == PROBE.count("lambda:"), "every attempt was made"


def test_systemd_finds_the_units_correct_and_tightly_confined(instance: Instance) -> None:
    verified = instance.machine.run("systemd-analyze", "verify", "--man=no", SERVICE, SOCKET)
    assert verified.stdout + verified.stderr == ""
    security = instance.machine.run("systemd-analyze", "security", "--no-pager", SERVICE)
    exposure = re.search(r"Overall exposure level for eic-agent.service: ([\d.]+)", security.stdout)
    assert exposure is not None
    print(f"exposure {exposure[1]}")
    assert float(exposure[1]) <= 1.5, security.stdout


def test_only_those_who_may_ask_are_answered(instance: Instance) -> None:
    """Root and the agent's own user are, others only as `agent.clients` says."""
    machine = instance.machine
    identity = instance.push("alice")
    instance.configure("60-clients.toml", agent={"clients": ["bob"]})
    machine.run("systemctl", "start", SERVICE)
    ask = ("/usr/libexec/eic-agent/eic-authorized-keys", "--agent", "/bin/false", "alice")
    for user in ("root", "eic-agent", "bob"):
        assert machine.run(*ask, user=user).stdout.strip() == identity.key.line
    refused = machine.run(*ask, user="alice", check=False)
    assert refused.stdout == ""

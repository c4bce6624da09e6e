"""The first login of a machine that has 5 % of one processor, as a t3.nano without credits has.

sshd and the agent share those 5 %. CI takes two logins of each kind; EIC_TEST_FIRST_LOGINS says how
many else, and `make first-logins` takes ten.
"""

import json
import os
import time
from collections.abc import Callable

import pytest

from tests.machine.instance import Instance
from tests.machine.machine import Machine, until

SERVICE = "eic-agent.service"
LOGINS = int(os.environ.get("EIC_TEST_FIRST_LOGINS", "2"))
# systemd's message that a unit's start has begun (sd-messages.h, SD_MESSAGE_UNIT_STARTING).
STARTING = "MESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5"
SLOW = "[Slice]\nCPUQuota=5%\n"
IN_SLOW = "[Service]\nSlice=slow.slice\n"


def make_slow(machine: Machine) -> None:
    machine.write("/etc/systemd/system/slow.slice", SLOW)
    for unit in ("ssh.service", SERVICE):
        machine.write(f"/etc/systemd/system/{unit}.d/50-slow.conf", IN_SLOW)
    # Pushed keys live a minute; a login may take a while here.
    machine.write("/etc/ssh/sshd_config.d/10-slow.conf", "LoginGraceTime 120\n")


def cold_starts(machine: Machine) -> int:
    """Count the agents that systemd started in this boot, and the lookups that did without."""
    started = machine.journal("--boot", STARTING, f"UNIT={SERVICE}")
    status = machine.run("eic-agent", "status", "--json").stdout
    return len(started) + int(json.loads(status)["fallbacks"])


def reboot(instance: Instance) -> None:
    instance.reboot()


def kill(instance: Instance) -> None:
    before = cold_starts(instance.machine)
    instance.machine.run("systemctl", "kill", "--signal=KILL", SERVICE)
    until(lambda: not _is_running(instance.machine), "the end of the agent")
    instance.__dict__["before"] = before


def _is_running(machine: Machine) -> bool:
    return machine.run("systemctl", "is-active", SERVICE, check=False).stdout == "active\n"


@pytest.mark.parametrize("gone", [reboot, kill])
def test_the_first_login_succeeds_and_starts_no_second_process(
    instance: Instance, gone: Callable[[Instance], None]
) -> None:
    machine = instance.machine
    make_slow(machine)
    instance.reboot()
    until(lambda: _is_running(machine), "the agent", 90)
    for number in range(LOGINS):
        gone(instance)
        before = instance.__dict__.pop("before", 0)
        begun = time.monotonic()
        done = instance.push_and_log_in()
        took_s = time.monotonic() - begun
        print(f"{gone.__name__} {number + 1}: {done.returncode} after {took_s:.1f} s")
        assert done.stdout == "alice\n", done.stderr
        assert cold_starts(machine) - before == 1

"""The first login of a machine that has 5 % of one processor, as a t3.nano without credits has.

sshd and the agent share those 5 %. CI takes two logins of each kind; EIC_TEST_FIRST_LOGINS says how
many else, and `make first-logins` takes ten.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machine.instance import Instance
from tests.machine.machine import Machine, until
from tests.support import lacking

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


@contextlib.contextmanager
def slowed(machine: Machine) -> Iterator[None]:
    """See to it that the slice has 5 % of a processor and no more, also where systemd cannot.

    On a host whose controllers are those of the old hierarchy, a machine's systemd has none for the
    processor. There we move each process of the slice into a group of our own, as soon as it is
    there: after some milliseconds, in which it has hardly begun.
    """

    def slices() -> list[Path]:
        return [*machine.cgroup.rglob("slow.slice")]

    until(slices, "the slice")
    if any((found / "cpu.max").exists() for found in slices()):
        yield
        return
    group = Path("/sys/fs/cgroup/cpu") / f"{machine.cgroup.name}-slow"
    if not (group.parent / "cpu.cfs_quota_us").exists():
        lacking("a controller for the processor", "run the tests on a host with cgroup v2")
    group.mkdir()
    (group / "cpu.cfs_quota_us").write_text("5000")  # of the period, 100000
    ended = threading.Event()

    def move() -> None:
        moved: set[str] = set()
        while not ended.wait(0.02):
            with contextlib.suppress(OSError):  # a unit that has just ended
                for procs in machine.cgroup.rglob("slow.slice/**/cgroup.procs"):
                    for pid in set(procs.read_text().split()) - moved:
                        (group / "cgroup.procs").write_text(pid)
                        moved.add(pid)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield
        throttled = [line for line in _stat(group) if line.startswith("nr_throttled ")]
        assert throttled != ["nr_throttled 0"]
    finally:
        ended.set()
        mover.join()
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.procs").write_text(pid)
        until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
        group.rmdir()


def _stat(group: Path) -> list[str]:
    return (group / "cpu.stat").read_text().splitlines()


def cold_starts(machine: Machine) -> int:
    """Count the agents that systemd started in this boot, and the lookups that did without."""
    started = machine.journal("--boot", STARTING, f"UNIT={SERVICE}")
    status = machine.run("eic-agent", "status", "--json", check=False).stdout
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
    with slowed(machine):
        for number in range(LOGINS):
            log_in_first(instance, gone, number)


def log_in_first(instance: Instance, gone: Callable[[Instance], None], number: int) -> None:
    machine = instance.machine
    until(lambda: _is_running(machine), "the agent", 90)
    gone(instance)
    before = instance.__dict__.pop("before", 0)
    begun = time.monotonic()
    done = instance.push_and_log_in()
    took_s = time.monotonic() - begun
    print(f"{gone.__name__} {number + 1}: {done.returncode} after {took_s:.1f} s")
    assert done.stdout == "alice\n", done.stderr
    assert cold_starts(machine) - before == 1

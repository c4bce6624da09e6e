"""A local user floods journald and the agent's sockets: logins go on, and none is unrecorded.

Only where it is asked for. The minute and the 200 logins of docs/reliability.md:

    EIC_FLOOD_LOGINS=200 EIC_FLOOD_S=60 pytest -n 0 -s tests/machine/test_flood.py
"""

import contextlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.machine.instance import Instance
from tests.machine.machine import until

LOGINS = int(os.environ.get("EIC_FLOOD_LOGINS", "20"))
SECONDS = float(os.environ.get("EIC_FLOOD_S", "10"))
AT_ONCE = 4
FLOOD = (Path(__file__).parent / "flood.py").read_text()


@contextlib.contextmanager
def flood(instance: Instance, user: str) -> Iterator[None]:
    """Have eight processes of this user flood, in a unit of their own as a session has one."""
    instance.machine.write("/srv/flood.py", FLOOD)
    unit = f"flood-{user}"
    run = ["systemd-run", "--quiet", f"--unit={unit}", f"--uid={user}", "--collect"]
    instance.machine.run(*run, "python3", "/srv/flood.py")
    count = ["pgrep", "--count", "--uid", user, "--full", "/srv/flood.py"]
    try:
        until(lambda: instance.machine.run(*count, check=False).stdout.strip() == "8", "the eight")
        yield
    finally:
        instance.machine.run("systemctl", "kill", "--signal=KILL", unit, check=False)
        instance.machine.run("systemctl", "stop", unit, check=False)


@dataclass(frozen=True)
class Login:
    """One login: whether it should succeed, whether it did, and how long it took."""

    fingerprint: str
    wanted: bool
    succeeded: bool
    seconds: float
    said: str


def log_in(instance: Instance, number: int) -> Login:
    """Log in by a key pushed for it; every fifth key has run out."""
    wanted = number % 5 != 0
    pushed = instance.push("alice" if number % 2 else "root")
    if not wanted:
        pushed.block.expires = int(time.time()) - 1
    begun = time.monotonic()
    done = pushed.log_in()
    seconds = time.monotonic() - begun
    said = done.stdout + done.stderr
    return Login(pushed.key.fingerprint, wanted, done.returncode == 0, seconds, said)


def believed(instance: Instance) -> list[dict[str, str]]:
    """The entries that a reader may believe, by the filter that the manual gives."""
    uid = instance.machine.sh("id -u eic-agent").strip()
    trusted = ("_SYSTEMD_UNIT=eic-agent.service", "_UID=0", f"_UID={uid}")
    ours = "SYSLOG_IDENTIFIER=eic-agent"
    first, *rest = ((ours, match) for match in trusted)
    return instance.machine.journal(*first, *itertools.chain(*(("+", *both) for both in rest)))


def logins_in_a_flood(instance: Instance, user: str) -> list[Login]:
    """Log in until the flood has lasted long enough and there were enough logins."""
    ends = time.monotonic() + SECONDS
    made: list[Login] = []
    with flood(instance, user), ThreadPoolExecutor(AT_ONCE) as threads:
        numbers = itertools.count(1)
        while len(made) < LOGINS or time.monotonic() < ends:
            some = list(itertools.islice(numbers, AT_ONCE))
            made += threads.map(lambda number: log_in(instance, number), some)
    return made


def unrecorded_of(made: list[Login], entries: list[dict[str, str]]) -> list[Login]:
    """Give the logins that succeeded and have no entry of a grant."""
    granted = {e["EIC_FINGERPRINT"] for e in entries if e.get("EIC_DECISION") == "granted"}
    return [login for login in made if login.succeeded and login.fingerprint not in granted]


def check(instance: Instance, made: list[Login]) -> None:
    """Nothing went otherwise than it should, and each grant has its entry."""
    wrong = [login for login in made if login.succeeded != login.wanted]
    with contextlib.suppress(TimeoutError):  # what was kept in memory is written now
        until(lambda: not unrecorded_of(made, believed(instance)), "entries that are late")
    entries = believed(instance)
    granted = Counter(e["EIC_FINGERPRINT"] for e in entries if e.get("EIC_DECISION") == "granted")
    unrecorded = unrecorded_of(made, entries)
    seconds = sorted(login.seconds for login in made)
    late = sum("EIC_LATE" in entry for entry in entries)
    units = Counter(e["_SYSTEMD_UNIT"] for e in entries if e.get("EIC_DECISION") == "granted")
    print(
        f"\n{len(made)} logins, {sum(login.wanted for login in made)} of them to be granted: "
        f"{len(wrong)} went wrong, {len(unrecorded)} unrecorded; {late} entries late; "
        f"entries by unit {dict(units)}; a login took {seconds[len(seconds) // 2]:.2f} s "
        f"(median), {seconds[-1]:.2f} s (most)"
    )
    assert not wrong, wrong
    assert not unrecorded, unrecorded
    assert "SHA256:forged" not in granted
    refused = {login.fingerprint for login in made if not login.wanted}
    assert not refused & granted.keys()


@pytest.mark.skipif("EIC_FLOOD_S" not in os.environ, reason="set EIC_FLOOD_S=60 to run it")
@pytest.mark.parametrize("release", ["debian12", "debian13"], indirect=True)
def test_a_flood_of_a_strangers_costs_no_login_and_no_entry(instance: Instance) -> None:
    instance.machine.sh("mkdir -p /root/.ssh")
    made = logins_in_a_flood(instance, "bob")
    check(instance, made)

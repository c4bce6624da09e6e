"""What must hold before, during and after any change of packages."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from tests.machine.machine import Machine

# A system user stays when its package goes: files of his may be anywhere.
ACCOUNTS = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/.pwd.lock")


def effective_sshd(machine: Machine) -> dict[str, str]:
    """What `sshd -T` says, by keyword."""
    lines = machine.sh("mkdir -p /run/sshd; sshd -T").splitlines()
    return dict(line.split(" ", 1) for line in lines if " " in line)


@contextlib.contextmanager
def all_the_while(what: str, holds: Callable[[], bool]) -> Iterator[None]:
    """Check a condition over and over, from a thread, while the body runs."""
    stop, failures, checks = threading.Event(), [], 0

    def check() -> None:
        nonlocal checks
        while not stop.is_set():
            if not holds():
                failures.append(checks)
            checks += 1

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert checks
    assert not failures, f"{what}: {len(failures)} of {checks} checks failed"


def sshd_accepts_its_configuration(machine: Machine) -> bool:
    return machine.run("/usr/sbin/sshd", "-t", check=False).returncode == 0

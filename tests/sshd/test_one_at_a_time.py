"""The lock keeps out whom it should, and is nobody else's to take."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from eic_agent.sshd.lock import locked
from tests.sshd.conftest import Machine
from tests.support import root

OTHER = 65534  # an unprivileged second user


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    order: list[str] = []
    inside, path = threading.Event(), tmp_path / "lock"

    def second() -> None:
        inside.wait()
        with locked(path):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with locked(path):
        inside.set()
        other.join(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_are_never_two_inside(tmp_path: Path) -> None:
    path, inside, most, turns = tmp_path / "lock", 0, 0, 0

    def take_turns() -> None:
        nonlocal inside, most, turns
        for _ in range(20):
            with locked(path):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1
                turns += 1

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == (1, 80)
    assert list(tmp_path.iterdir()) == []


def test_who_waits_too_long_is_told_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holding = ["flock", "--exclusive", str(path), "sleep", "1000"]
    with subprocess.Popen(holding) as holder:
        try:
            while not path.exists():
                time.sleep(0.01)
            with pytest.raises(TimeoutError) as failed, locked(path, limit_s=0.3):
                pass
            assert f"{path} has been locked for 0 s by process {holder.pid}" in str(failed.value)
            assert "sleep 1000" in str(failed.value)
        finally:
            children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
            for pid in map(int, children):
                os.kill(pid, 9)


def test_what_a_stranger_locks_holds_nobody(machine: Machine) -> None:
    """flock(2) takes no more than a file that he may open: a directory, for instance."""
    root()
    for path in (machine.root, *machine.root.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o055)
    as_other = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    lock = machine.system.paths.run / "eic-agent-sshd.lock"
    script = "for path; do flock --exclusive $path sleep 1000 & done; echo holding; wait"
    paths = [machine.etc, machine.drop_in.parent, machine.system.paths.run, machine.root / "etc"]
    with subprocess.Popen(
        [*as_other, "sh", "-c", script, "sh", *paths],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as stranger:
        try:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            held = Path("/proc/locks").read_text
            while f":{machine.etc.stat().st_ino} " not in held():
                time.sleep(0.01)
            assert "asks eic-agent" in machine.enable()
            machine.disable()
            with locked(lock):
                taken = subprocess.run(
                    [*as_other, "flock", "--nonblock", lock, "true"], check=False
                )
            assert taken.returncode != 0
        finally:
            os.killpg(stranger.pid, 9)
    assert list(machine.system.paths.run.iterdir()) == []


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()

"""The operating system of an instance with a machine of its own: users, /run, and a journal."""

import contextlib
import json
import os
import pwd
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from eic_sandbox.journald import Journald, journald
from eic_sandbox.network import Machine
from eic_sandbox.programs import SandboxError

USER = "ec2-user"
JOURNAL = "journal.jsonl"
_USER_IDS = range(60100, 60500)  # away from people's and from systemd's dynamic ones
_POLL_S = 0.5

_PREPARE = """\
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/systemd/journal
: > /run/systemd/journal/socket
mount --bind "$1/journald" /run/systemd/journal/socket
for file in passwd group shadow; do mount --bind "$1/etc/$file" /etc/$file; done
hostname "$2"
"""


@contextlib.contextmanager
def guest(machine: Machine, directory: Path, host_name: str) -> Iterator[Path]:
    """Give the machine users and a journal; the path is the journal's file, one JSON a line.

    It has the users that are here, whose passwords do not work, and `ec2-user`.
    """
    _write_users(directory / "etc", directory / "home")
    journal = directory / JOURNAL
    # By way of a file descriptor, since a socket's path must be short.
    here = os.open(directory, os.O_PATH)
    try:
        with (
            journald(Path(f"/proc/self/fd/{here}")) as received,
            _written_to(journal, received, host_name),
        ):
            received.path.chmod(0o666)
            machine.run("sh", "-c", _PREPARE, "sh", str(directory), host_name)
            yield journal
    finally:
        os.close(here)


def _write_users(etc: Path, home: Path) -> None:
    entries = [entry for entry in pwd.getpwall() if entry.pw_name != USER]
    taken = {entry.pw_uid for entry in entries}
    uid = next((uid for uid in _USER_IDS if uid not in taken), None)
    if uid is None:
        raise SandboxError(f"no user id of {_USER_IDS.start} to {_USER_IDS.stop - 1} is free")
    etc.mkdir(parents=True)
    home.mkdir()
    home.chmod(0o700)
    lines = [
        f"{e.pw_name}:x:{e.pw_uid}:{e.pw_gid}:{e.pw_gecos}:{e.pw_dir}:{e.pw_shell}" for e in entries
    ]
    shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
    lines.append(f"{USER}:x:{uid}:{uid}:EC2 user:{home}:{shell}")
    (etc / "passwd").write_text("\n".join(lines) + "\n")
    groups = [
        line
        for line in Path("/etc/group").read_text().splitlines()
        if not line.startswith(f"{USER}:")
    ]
    (etc / "group").write_text("\n".join([*groups, f"{USER}:x:{uid}:"]) + "\n")
    names = [entry.pw_name for entry in entries] + [USER]
    shadow = etc / "shadow"
    shadow.touch(mode=0o600)
    shadow.write_text("".join(f"{name}:*:20000:0:99999:7:::\n" for name in names))
    os.chown(home, uid, uid)


@contextlib.contextmanager
def _written_to(path: Path, received: Journald, host_name: str) -> Iterator[None]:
    stop = threading.Event()
    path.touch()

    def write() -> None:
        last_round = False
        while not last_round:
            last_round = stop.is_set()
            select.select([received.socket], [], [], 0 if last_round else _POLL_S)
            entries = received.entries()
            if entries:
                with path.open("a") as file:
                    for entry in entries:
                        stamp = str(int(time.time() * 1_000_000))
                        trusted = {"_HOSTNAME": host_name, "__REALTIME_TIMESTAMP": stamp}
                        file.write(json.dumps(entry.fields | trusted) + "\n")

    thread = threading.Thread(target=write, name="journal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

"""A real journald, a real unprivileged user, and the best that she can write."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.reports.forgeries import ADDRESS, FORGERIES, SENDER
from tests.reports.journals import CALLER, KEY
from tests.support import lacking, program, root

NOBODY = 65534
REQUEST = "2bcc936c-8a83-4096-9000-000000000001"

# In a mount namespace of its own, which ends with it: a /run and a /dev for journald's sockets.
BEGIN = """
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal
mkdir "$1/dev"
mount -t tmpfs tmpfs "$1/dev"
for device in null zero random urandom tty; do
    touch "$1/dev/$device"
    mount --bind "/dev/$device" "$1/dev/$device"
done
ln -s /run/systemd/journal/dev-log "$1/dev/log"
mount --rbind "$1/dev" /dev
exec /lib/systemd/systemd-journald
"""
# Run as root by a program named sshd: it asks the agent, and accepts the key.
SSHD = r"""
import os, socket, sys, syslog, time
granted = sys.stdin.read().replace("@OWN@", str(os.getpid()))
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.sendto(granted.encode(), "/run/systemd/journal/socket")
syslog.openlog("sshd", syslog.LOG_PID, syslog.LOG_AUTHPRIV)
syslog.syslog(f"Accepted publickey for alice from 127.0.0.1 port 1 ssh2: ED25519 {sys.argv[1]}")
print(os.getpid(), flush=True)
time.sleep(600)
"""

AUDIT = """
import sys
from eic_agent.reports.audit import Options, Screen, run
run(Options(all=True, refused=True, json=True), Screen(sys.stdout, sys.stderr), None, 0)
"""


@dataclass
class Site:
    """A journal of its own, and a directory that everybody may write to."""

    journald: int
    directory: Path

    def inside(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self.journald}", "--mount", "--"]
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=60, check=False, **options
        )

    def rows(self) -> list[dict[str, Any]]:
        self.inside("journalctl", "--sync")
        done = self.inside(sys.executable, "-c", AUDIT)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root()
    if not Path("/lib/systemd/systemd-journald").exists():
        lacking("the program systemd-journald", "apt-get install systemd")
    directory = tmp_path_factory.mktemp("site")
    for above in (directory, *directory.parents[:3]):
        with contextlib.suppress(PermissionError):
            above.chmod(above.stat().st_mode | 0o011)
    start = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", BEGIN, "sh"]
    with subprocess.Popen([*start, str(directory)], stderr=subprocess.PIPE) as journald:
        site = Site(journald.pid, directory)
        end = time.monotonic() + 30
        while site.inside("test", "-S", "/run/systemd/journal/dev-log").returncode:
            if journald.poll() is not None or time.monotonic() > end:
                assert journald.stderr is not None
                journald.kill()
                lacking(f"leave to run journald ({journald.stderr.read()!r})", "run it as root")
            time.sleep(0.05)
        try:
            yield site
        finally:
            journald.terminate()


@contextlib.contextmanager
def logged_in(site: Site) -> Iterator[int]:
    """A login that the journal tells of, with the process that keeps it."""
    fields = {
        "SYSLOG_IDENTIFIER": "eic-agent",
        "MESSAGE": "granted",
        "EIC_DECISION": "granted",
        "EIC_USER": "alice",
        "EIC_FINGERPRINT": KEY,
        "EIC_CALLER": CALLER,
        "EIC_REQUEST": REQUEST,
        "EIC_SSHD_PID": "@OWN@",
    }
    sshd = site.directory / "sshd"
    shutil.copy(os.path.realpath("/usr/bin/python3"), sshd)
    enter = ["nsenter", f"--target={site.journald}", "--mount", "--", str(sshd), "-c", SSHD, KEY]
    entry = "".join(f"{name}={value}\n" for name, value in fields.items())
    with subprocess.Popen(
        enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(entry)
        process.stdin.close()
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_what_an_unprivileged_user_writes_changes_no_row(site: Site) -> None:
    program("sudo", "sudo")
    home = site.directory / "home"
    home.mkdir()
    (home / "send.py").write_text(SENDER)
    for path in (home, home / "send.py"):
        os.chown(path, NOBODY, NOBODY)
    with logged_in(site) as pid:
        before = site.rows()
        assert [(row["kind"], row["principal"], row["pid"]) for row in before] == [
            ("login", CALLER, pid)
        ]
        ids = f"PID={pid} KEY={KEY} REQUEST={REQUEST} OTHER=SHA256:{43 * chr(65)}"
        settings = f"export HOME={home} {ids}; cd; "
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
        for name, script in FORGERIES.items():
            site.inside(*become, "bash", "-c", settings + script)
            assert site.rows() == before, name
    found = site.inside("journalctl", "--all", "--output=json", "--no-pager").stdout.splitlines()
    forged = [line for line in found if ADDRESS in line or '"EIC_USER":"root"' in line]
    print(f"{len(forged)} forged entries are in the journal")
    assert len(forged) >= 8

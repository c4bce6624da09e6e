"""What `eic-agent audit` costs on a large journal: `python -m benchmarks.audit [ENTRIES]`.

It makes journal files of that many entries, of which nine in ten are believed: logins with two
grants, sshd's and logind's lines, what a user's own sshd process says, and strangers who leave.
Then it runs the command on them once.
"""

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from eic_agent.journal.entries import MESSAGE_ID_GRANTED

REMOTE = "/usr/lib/systemd/systemd-journal-remote"
BOOT, MACHINE = "b" * 32, "a" * 32
BEGIN_S, STEP_US = 1_795_000_000, 30_000
AGENT_UID, USER_UID = 997, 1000

Fields = dict[str, object]


def _sshd(pid: int, uid: int, message: str) -> Fields:
    return {
        "_TRANSPORT": "syslog",
        "SYSLOG_IDENTIFIER": "sshd",
        "_PID": pid,
        "_UID": uid,
        "_EXE": "/usr/sbin/sshd",
        "_SYSTEMD_UNIT": "ssh.service",
        "_SYSTEMD_CGROUP": "/system.slice/ssh.service",
        "MESSAGE": message,
    }


def _logind(number: int, pid: int, message_id: str, message: str) -> Fields:
    return {
        "_TRANSPORT": "journal",
        "SYSLOG_IDENTIFIER": "systemd-logind",
        "_PID": 43,
        "_UID": 0,
        "_SYSTEMD_UNIT": "systemd-logind.service",
        "MESSAGE_ID": message_id,
        "SESSION_ID": number,
        "LEADER": pid,
        "MESSAGE": message,
    }


def _granted(number: int, pid: int, fingerprint: str) -> Fields:
    request = uuid.UUID(int=number)
    return {
        "_TRANSPORT": "journal",
        "SYSLOG_IDENTIFIER": "eic-agent",
        "_PID": 134,
        "_UID": AGENT_UID,
        "_SYSTEMD_UNIT": "eic-agent.service",
        "MESSAGE_ID": MESSAGE_ID_GRANTED,
        "EIC_DECISION": "granted",
        "EIC_USER": "alice",
        "EIC_FINGERPRINT": fingerprint,
        "EIC_CALLER": "arn:aws:sts::123456789012:assumed-role/Admin/alice",
        "EIC_REQUEST": request,
        "EIC_INSTANCE": "i-0123456789abcdef0",
        "EIC_SSHD_PID": pid,
        "MESSAGE": f"granted {fingerprint} for alice (request {request})",
    }


def _login(number: int) -> Iterator[Fields]:
    pid = 1000 + number * 3 % 30_000
    digest = hashlib.sha256(b"%d" % number).digest()
    fingerprint = f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
    peer = f"203.0.113.{number % 250} port {1024 + number % 60_000}"
    yield _granted(number, pid, fingerprint)
    yield _granted(number, pid, fingerprint)
    yield _sshd(pid, 0, f"Accepted publickey for alice from {peer} ssh2: ED25519 {fingerprint}")
    yield _sshd(pid, 0, "pam_unix(sshd:session): session opened for user alice(uid=1000)")
    yield _logind(number, pid, "8d45620c1a4348dbb17410da57c60c66", f"New session {number}")
    yield _sshd(pid + 1, USER_UID, f"Disconnected from user alice {peer}")
    yield _sshd(pid, 0, "pam_unix(sshd:session): session closed for user alice")
    yield _logind(number, pid, "3354939424b4456d9802ca8333ed424a", f"Removed session {number}.")
    yield _sshd(pid + 2, 0, f"Connection closed by invalid user admin {peer} [preauth]")
    yield _sshd(pid + 2, 0, f"Invalid user admin from {peer}")


def _write(directory: Path, count: int) -> int:
    """Make the journal files, and return how many logins are in them."""
    command = [REMOTE, f"--output={directory}/made.journal", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as remote:
        assert remote.stdin is not None
        written = number = 0
        while written < count:
            number += 1
            for fields in _login(number):
                written += 1
                at = written * STEP_US
                real = BEGIN_S * 1_000_000 + at
                stamps: Fields = {
                    "__CURSOR": f"s={MACHINE};i={written:x};b={BOOT};m={at:x};t={real:x};x=1",
                    "__REALTIME_TIMESTAMP": real,
                    "__MONOTONIC_TIMESTAMP": at,
                    "_BOOT_ID": BOOT,
                    "_MACHINE_ID": MACHINE,
                    "_HOSTNAME": "host",
                    "PRIORITY": 6,
                    "SYSLOG_FACILITY": 10,
                }
                lines = [f"{name}={value}\n" for name, value in (stamps | fields).items()]
                remote.stdin.write("".join([*lines, "\n"]).encode())
    return number


def _peak_mb(pid: int) -> str:
    """Most memory that a process has used so far, and what it now has that is not a file's."""
    status = Path(f"/proc/{pid}/status").read_text()
    sizes = dict(line.split(":", 1) for line in status.splitlines())
    peak, own = (int(sizes[name].split()[0]) // 1024 for name in ("VmHWM", "RssAnon"))
    return f"{peak} MB at most, {own} MB now without mapped files"


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    """Measure, and print what was found."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="eic-audit-") as name:
        logins = _write(Path(name), count)
        command = [sys.executable, "-m", "eic_agent", "audit", "--json", f"--directory={name}"]
        begun = time.monotonic()
        seen = ["", ""]
        rows = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            while (chunk := process.stdout.read(1 << 20)) != b"":
                rows += (chunk or b"").count(b"\n")
                for place, pid in enumerate([process.pid, *_children(process.pid)][:2]):
                    try:
                        seen[place] = _peak_mb(pid)
                    except (OSError, KeyError):
                        continue
                time.sleep(0.05)
            _, _, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - begun
    print(f"{count} entries, {logins} logins, {rows} rows: {wall_s:.1f} s,", end=" ")
    print(f"{usage.ru_utime + usage.ru_stime:.1f} s of processor time of both processes")
    print(f"eic-agent: {seen[0]}")
    print(f"journalctl: {seen[1]}")
    print(f"load before and during it: {os.getloadavg()[1]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()

"""Journals for tests: recorded ones, and entries made as journald makes them."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from eic_agent.journal.entries import MESSAGE_ID_GRANTED, MESSAGE_ID_REFUSED
from tests.support import lacking

RECORDED = Path(__file__).parent / "recorded"
REMOTE = Path("/usr/lib/systemd/systemd-journal-remote")

BOOT, NEXT_BOOT = "b" * 32, "c" * 32
MACHINE = "a" * 32
CALLER = "arn:aws:sts::123456789012:assumed-role/Admin/alice"
AGENT_UID, USER_UID = 997, 1000
KEY = "SHA256:2mjD1FYZEdv/aU/Bn6EoHhAs4Wv6RSV1txkqe5SNnRo"
OTHER_KEY = "SHA256:ps32KMQ8DAb80LVfpFfBGhv0HaNqHJ1Q1vEGFwLtp3E"

Entry = dict[str, str | bytes]


def export(entries: Iterable[Entry]) -> bytes:
    """Write entries in the journal's export format, with a cursor each."""
    text = b""
    for number, entry in enumerate(entries, 1):
        boot, mono = entry["_BOOT_ID"], int(entry["__MONOTONIC_TIMESTAMP"])
        real = int(entry["__REALTIME_TIMESTAMP"])
        cursor = f"s={MACHINE};i={number:x};b={boot!s};m={mono:x};t={real:x};x={number:x}"
        for name, value in {"__CURSOR": cursor, **entry}.items():
            data = value.encode() if isinstance(value, str) else value
            if all(byte >= 0x20 for byte in data):
                text += name.encode() + b"=" + data + b"\n"
            else:
                text += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        text += b"\n"
    return text


def journal(directory: Path, exported: bytes) -> Path:
    """Make journal files of exported entries, and return their directory."""
    if not REMOTE.exists():
        lacking(f"the program {REMOTE}", "apt-get install systemd-journal-remote")
    directory.mkdir(exist_ok=True)
    output = f"--output={directory}/recorded.journal"
    subprocess.run([REMOTE, output, "-"], input=exported, capture_output=True, check=True)
    return directory


@dataclass
class Writer:
    """Collects entries of one machine; each is a second later than the one before."""

    boot: str = BOOT
    now_s: float = 1_795_000_000.0
    up_s: float = 100.0
    entries: list[Entry] = field(default_factory=list)

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.up_s += seconds

    def reboot(self) -> None:
        """Begin another boot."""
        self.boot, self.up_s = NEXT_BOOT, 50.0

    def write(self, **fields: str | bytes | None) -> None:
        """Add an entry; a field that is None is left out."""
        self.later(1)
        entry: Entry = {
            "__REALTIME_TIMESTAMP": str(round(self.now_s * 1e6)),
            "__MONOTONIC_TIMESTAMP": str(round(self.up_s * 1e6)),
            "_BOOT_ID": self.boot,
            "_MACHINE_ID": MACHINE,
            "_HOSTNAME": "host",
        }
        entry |= {name: value for name, value in fields.items() if value is not None}
        self.entries.append(entry)

    def sshd(self, pid: int, message: str, **fields: str | None) -> None:
        """Write as sshd does, as root and by syslog."""
        written: dict[str, str | None] = {
            "_TRANSPORT": "syslog",
            "SYSLOG_IDENTIFIER": "sshd",
            "_PID": str(pid),
            "_UID": "0",
            "_EXE": "/usr/sbin/sshd",
            "_SYSTEMD_UNIT": "ssh.service",
            "MESSAGE": message,
        }
        self.write(**(written | fields))

    def accepted(self, pid: int, key: str = KEY, user: str = "alice", **fields: str | None) -> None:
        """Write that sshd accepted a key."""
        line = f"Accepted publickey for {user} from 203.0.113.7 port 50123 ssh2: ED25519 {key}"
        self.sshd(pid, line, **fields)

    def closed(self, pid: int, **fields: str | None) -> None:
        """Write that the session was closed."""
        self.sshd(pid, "pam_unix(sshd:session): session closed for user alice", **fields)

    def agent(self, decision: str | None, pid: int, key: str = KEY, **fields: str | None) -> None:
        """Write as the agent does."""
        granted = decision == "granted"
        written: dict[str, str | None] = {
            "_TRANSPORT": "journal",
            "SYSLOG_IDENTIFIER": "eic-agent",
            "_PID": "134",
            "_UID": str(AGENT_UID),
            "_EXE": "/usr/bin/python3.11",
            "_SYSTEMD_UNIT": "eic-agent.service",
            "MESSAGE": f"{decision} {key}",
            "MESSAGE_ID": MESSAGE_ID_GRANTED if granted else MESSAGE_ID_REFUSED,
            "EIC_DECISION": decision,
            "EIC_REASON": None if granted else "expired",
            "EIC_USER": "alice",
            "EIC_FINGERPRINT": key,
            "EIC_CALLER": CALLER,
            "EIC_REQUEST": "2bcc936c-8a83-4096-9000-000000000001",
            "EIC_INSTANCE": "i-0123456789abcdef0",
            "EIC_SSHD_PID": str(pid),
        }
        self.write(**(written | fields))

    def login(self, pid: int, key: str = KEY) -> None:
        """Write all of one login and its end, half a minute later."""
        self.agent("granted", pid, key)
        self.agent("granted", pid, key)
        self.accepted(pid, key)
        self.later(30)
        self.closed(pid)

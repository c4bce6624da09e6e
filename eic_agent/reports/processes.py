"""Which processes one descends from, by the kernel's word (proc(5))."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_MOST = 1000
_NONE = str(2**32 - 1)  # what the kernel says where no session or user was ever set


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs; `started_s` is on CLOCK_MONOTONIC."""

    pid: int
    parent: int
    uid: int
    started_s: float


def read(pid: int) -> Process | None:
    """Give a process; None where there is none, or none that may be seen."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
        status = (_PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return None
    # The name, which the process chooses, stands in brackets; the last one ends it.
    fields = stat.rpartition(")")[2].split()
    uid = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1]
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # on CLOCK_BOOTTIME
    slept_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return Process(pid, int(fields[1]), int(uid), started_s - slept_s)


def ancestors(pid: int) -> list[Process]:
    """Give a process, its parent and so on, as far as can be seen, without the first of all."""
    found: list[Process] = []
    while pid > 1 and len(found) < _MOST:
        process = read(pid)
        if process is None:
            break
        found.append(process)
        pid = process.parent
    return found


def audit_ids(pid: int) -> tuple[str, str]:
    """Give the login's user id and session id of the kernel's audit; each empty if never set."""
    ids = []
    for name in ("loginuid", "sessionid"):
        try:
            value = (_PROC / str(pid) / name).read_text().strip("\0\n ")
        except OSError:
            value = _NONE
        ids.append("" if value == _NONE else value)
    return ids[0], ids[1]

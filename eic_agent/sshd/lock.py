"""One at a time: a lock that only root can take, and that says who holds it."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LIMIT_S = 60.0  # whoever holds it asks sshd and systemd a few things, which takes some seconds
_POLL_S = 0.1


@contextlib.contextmanager
def locked(path: Path, limit_s: float = LIMIT_S) -> Iterator[None]:
    """Keep others who call this out meanwhile; nothing is left behind.

    The file is created in a directory of root's, readable by nobody else: flock(2) takes no more
    than a file opened for reading, so a lock that others can open is theirs to hold for ever.
    Raises TimeoutError, which names the holder, and OSError where it cannot be created.
    """
    ends = time.monotonic() + limit_s
    while (handle := _lock(path)) is None:
        if time.monotonic() > ends:
            raise TimeoutError(f"{path} has been locked for {limit_s:.0f} s by {_holder(path)}")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is released: who waits takes a new file
        os.close(handle)


def _lock(path: Path) -> int | None:
    """Return the locked file, None where somebody else holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass  # locked, or removed by who held it until now
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _holder(path: Path) -> str:
    """Name the process that holds it, as far as the kernel tells (proc_locks(5))."""
    with contextlib.suppress(OSError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
                command = Path(f"/proc/{fields[4]}/cmdline").read_bytes().decode(errors="replace")
                return f"process {fields[4]} ({' '.join(command.split(chr(0))).strip()})"
    return "a process that cannot be seen from here"

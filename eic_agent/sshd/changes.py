"""Files changed together: each one atomically, and all of them put back if something fails."""

import errno
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Labels and access lists; not what is computed from the content, as security.ima is.
_KEPT_ATTRIBUTES = ("security.selinux", "security.SMACK64", "system.posix_acl_access", "user.")


@dataclass(frozen=True, slots=True)
class _Done:
    path: Path
    before: bytes | None
    mode: int


class Changes:
    """Writes and removals in the order of the calls; true where there were any; raises OSError."""

    def __init__(self) -> None:
        self._done: list[_Done] = []
        self._folders: list[Path] = []

    def __bool__(self) -> bool:
        return bool(self._done)

    def put(self, path: Path, content: bytes | None, mode: int) -> None:
        """Give the file this content, or remove it; nothing happens where that is so already.

        The mode is for a new file. One that was there keeps owner, mode, SELinux label and access
        list, and a link stays a link.
        """
        before = content_of(path)
        if before == content:
            return
        if content is None:
            mode = stat.S_IMODE(path.stat().st_mode)
            _remove(path)
        else:
            self._make_folders(path.parent)
            _write(path, content, mode)
        self._done.append(_Done(path, before, mode))

    def touched(self, path: Path) -> bool:
        """Say whether this file was written or removed."""
        return any(done.path == path for done in self._done)

    def undo(self) -> None:
        """Put everything back."""
        while self._done:
            done = self._done.pop()
            if done.before is None:
                _remove(done.path)
            else:
                _write(done.path, done.before, done.mode)
        while self._folders:
            self._folders.pop().rmdir()

    def _make_folders(self, folder: Path) -> None:
        for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            path.mkdir()
            path.chmod(0o755)  # whatever the umask
            self._folders.append(path)


def content_of(path: Path) -> bytes | None:
    """Return what the file holds, None where it does not exist; raises OSError.

    A named pipe is no file to wait for: what is read is what is there.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as file:
        if stat.S_ISFIFO(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "is a named pipe and no file", str(path))
        return file.read()


def _write(path: Path, content: bytes, mode: int) -> None:
    target = Path(os.path.realpath(path))
    # A name with a dot in front is matched by no Include.
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            try:
                found = target.stat()
            except FileNotFoundError:
                os.fchmod(handle, mode)
            else:
                os.fchown(handle, found.st_uid, found.st_gid)
                os.fchmod(handle, stat.S_IMODE(found.st_mode))
                for attribute in os.listxattr(target):
                    if attribute.startswith(_KEPT_ATTRIBUTES):
                        os.setxattr(handle, attribute, os.getxattr(target, attribute))
            os.fsync(handle)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _remove(path: Path) -> None:
    path.unlink()
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""What a machine's file system holds at one moment, to be compared with another."""

import hashlib
import os
import stat
from pathlib import Path


def snapshot(root: Path) -> dict[str, str]:
    """Describe every file below a machine's root: kind, mode, owner, attributes, content.

    Times and the sizes of directories are left out.
    """
    found: dict[str, str] = {}
    for directory, subdirectories, files in os.walk(root):
        for name in (*subdirectories, *files):
            path = Path(directory, name)
            found[f"/{path.relative_to(root)}"] = _described(path)
    return found


def _described(path: Path) -> str:
    status = path.lstat()
    attributes = [
        f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}"
        for name in sorted(os.listxattr(path, follow_symlinks=False))
    ]
    if stat.S_ISLNK(status.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(status.st_mode):
        content = hashlib.blake2b(path.read_bytes()).hexdigest()[:32]
    else:
        content = f"{status.st_rdev:x}"
    mode = stat.filemode(status.st_mode)
    return " ".join([mode, f"{status.st_uid}:{status.st_gid}", content, *attributes])


def differences(
    before: dict[str, str], after: dict[str, str], *, but: tuple[str, ...] = ()
) -> dict[str, tuple[str, str]]:
    """Return the paths that appeared, went or changed, with what each was and is.

    Paths that begin with what is in `but` are left out.
    """
    return {
        path: (before.get(path, "absent"), after.get(path, "absent"))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path) and not path.startswith(but)
    }

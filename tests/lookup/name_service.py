"""A user database of one's own, with a module of the name service that hangs for some users.

It is seen by processes in a mount namespace of their own: this machine's nsswitch.conf, users and
libraries stay as they are.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests import support

# Groups of users whose name begins with "stuck" are asked for and never given, nor are users whose
# name begins with "lost"; everybody else is unknown here. All hangs while the file ALL is there.
MODULE = r"""
#include <nss.h>
#include <pwd.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum nss_status _nss_eicstuck_getpwnam_r(const char *name, struct passwd *result, char *buffer,
        size_t size, int *errnop)
{
    while (strncmp(name, "lost", 4) == 0 || access(ALL, F_OK) == 0)
        pause();
    return NSS_STATUS_NOTFOUND;
}

enum nss_status _nss_eicstuck_initgroups_dyn(const char *user, gid_t group, long int *start,
        long int *size, gid_t **groups, long int limit, int *errnop)
{
    while (strncmp(user, "stuck", 5) == 0 || access(ALL, F_OK) == 0)
        pause();
    return NSS_STATUS_NOTFOUND;
}
"""
NSSWITCH = "passwd: files eicstuck\ngroup: files eicstuck\n"
# eve's group has no name, and toor is another name of root's.
PASSWD = """\
root:x:0:0::/root:/bin/sh
toor:x:0:0::/root:/bin/sh
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
eic-agent:x:999:999::/nonexistent:/usr/sbin/nologin
alice:x:2000:2000::/:/bin/sh
eve:x:2001:4711::/:/bin/sh
""" + "".join(f"stuck{n}:x:{3000 + n}:2000::/:/bin/sh\n" for n in range(20))
GROUP = "root:x:0:\nwheel:x:10:root\nstaff:x:2000:\nnogroup:x:65534:\neic-agent:x:999:\n"

_ENTER = """
set -eu
work=$1 libraries=$2
shift 2
mount -t tmpfs tmpfs "$work/over"
mkdir "$work/over/upper" "$work/over/work"
cp "$work/libnss_eicstuck.so.2" "$work/over/upper/"
mount -t overlay overlay \
    -o "lowerdir=$libraries,upperdir=$work/over/upper,workdir=$work/over/work" "$libraries"
for file in nsswitch.conf passwd group; do
    mount --bind "$work/$file" "/etc/$file"
done
# Other users may run this Python, too; outside of the namespace its directories stay closed.
n=0
while [ "$1" != -- ]; do
    n=$((n + 1))
    mkdir "$work/over/upper$n" "$work/over/work$n"
    mount -t overlay overlay \
        -o "lowerdir=$1,upperdir=$work/over/upper$n,workdir=$work/over/work$n" "$1"
    chmod o+x "$1"
    shift
done
shift
exec "$@"
"""


class NameService:
    """The database, in a directory; `command` makes a command see it."""

    def __init__(self, directory: Path) -> None:
        """Build it, or end the test here where that cannot be done."""
        support.root()
        compiler = support.program("gcc", "gcc libc6-dev")
        unshare = support.program("unshare", "util-linux")
        (directory / "over").mkdir()
        (directory / "module.c").write_text(MODULE)
        library = directory / "libnss_eicstuck.so.2"
        build = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-parameter"]
        self.all_hangs = directory / "all-hangs"
        build.append(f'-DALL="{self.all_hangs}"')
        subprocess.run([*build, "-o", library, directory / "module.c"], check=True)
        for name, content in (("nsswitch.conf", NSSWITCH), ("passwd", PASSWD), ("group", GROUP)):
            (directory / name).write_text(content)
        self._enter = [unshare, "--mount", "--propagation", "private", "--", "sh", "-c", _ENTER]
        self._enter += ["sh", str(directory), str(_libraries()), *map(str, _closed()), "--"]
        done = subprocess.run(self.command("true"), capture_output=True, text=True, check=False)
        if done.returncode:
            support.lacking(
                f"mount namespaces and overlays ({done.stderr.strip()})",
                "run the tests outside of a container",
            )

    def command(self, *command: str) -> Sequence[str]:
        """Return the command that runs this one with this database."""
        return [*self._enter, *command]


def _closed() -> list[Path]:
    """Directories above this Python, and above the tree, that only their owner may enter."""
    ends = (Path(sys.executable).resolve(), Path(sys.prefix), Path(__file__))
    above = {folder for end in ends for folder in end.parents}
    return sorted(folder for folder in above if not folder.stat().st_mode & 0o001)


def _libraries() -> Path:
    """Where the C library of this process is, and its modules of the name service."""
    mapped = [Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines()]
    libraries = [path.parent for path in mapped if path.name.startswith(("libc.so", "libc-2"))]
    if not libraries:
        support.lacking("the C library of GNU", "run the tests on a system that has it")
    return libraries[0]

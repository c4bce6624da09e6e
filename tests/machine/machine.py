"""A booted Debian machine in a container of its own: file system, network, processes, journal.

The machine is an overlay over an image, in memory, inside a mount namespace that ends with the
container's last process: whatever happens to the tests, no mount is left behind. Its network is
a namespace with nothing but loopback, so it reaches nothing outside and nothing reaches it.
"""

import contextlib
import ctypes
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tests.support import lacking

T = TypeVar("T")

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_S = 120.0
_ENVIRONMENT = (f"PATH={PATH}", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
_CLONE_NEWNET = 0x40000000

# Where nspawn may not register a machine, it leaves a reboot to who started it.
_REBOOT_STATUS = 133
# $1: layers joined by colons, $2: where to put the overlay, $3: cgroup, then what nspawn is given.
_START = """
set -eu
if [ ! -d "$2/root" ]; then
    mount -t tmpfs -o mode=0755 tmpfs "$2"
    mkdir "$2/upper" "$2/work" "$2/root"
    mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
fi
echo $$ > "$3/cgroup.procs"
shift 3
exec "$@"
"""


class CommandFailed(AssertionError):
    """A command in the machine ended otherwise than the test needs."""


class Machine:
    """One machine, from `boot` until `close`; the context manager does both.

    Its root file system lies over `layers`, directories of which the first is uppermost: an image,
    and perhaps what `save` kept of other machines.
    """

    def __init__(self, name: str, *layers: Path) -> None:
        self.name = name
        self.layers = layers
        self.directory = Path(tempfile.mkdtemp(prefix=f"eic-{name}-"))
        self.cgroup = _cgroup2() / self.directory.name
        self._console = self.directory / "console.log"
        self._overlay = self.directory / "overlay"
        self._mounts = -1
        self._nspawn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Machine":
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def boot(self) -> None:
        """Start the machine and return once systemd has done all that it does at boot.

        Must be called from the main thread: the machine ends with the thread that started it.
        """
        self._overlay.mkdir()
        try:
            self.cgroup.mkdir()
        except OSError as error:
            lacking(f"leave to make a cgroup ({error})", "run the tests outside of a container")
        self._start("unshare", "--mount", "--propagation", "private", "--")
        assert self._nspawn is not None
        self._mounts = os.open(f"/proc/{self._nspawn.pid}/ns/mnt", os.O_RDONLY)

    def reboot(self) -> None:
        """Reboot in an orderly way and return once the machine is up again."""
        self._shut_down("reboot", _REBOOT_STATUS)
        self._start(*self._in_mounts())

    def power_off(self) -> None:
        """Shut down in an orderly way; what is in the file system stays until `close`."""
        self._shut_down("poweroff", 0)
        self._nspawn = None

    def save(self, layer: Path) -> None:
        """Copy what this machine, powered off, has changed in its file system into a directory."""
        subprocess.run(
            [*self._in_mounts(), "cp", "--archive", self._overlay / "upper", layer], check=True
        )

    def _shut_down(self, command: str, expected: int) -> None:
        assert self._nspawn is not None
        self.run("systemctl", command, check=False)
        if (status := self._nspawn.wait(BOOT_S)) != expected:
            raise CommandFailed(
                f"{command} ended {self.name} with {status}\n{self._console_text()}"
            )

    def _in_mounts(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{os.getpid()}/fd/{self._mounts}", "--"]

    def _start(self, *in_namespace: str) -> None:
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self._overlay / 'root'}"),
            *(f"--machine={self.name}", "--register=no", "--keep-unit", "--kill-signal=SIGKILL"),
            *("--private-network", "--resolv-conf=off", "--timezone=off", "--link-journal=no"),
            # systemd in the machine enforces IPAddressDeny= by a BPF program; where it may not
            # load one it says so and goes on without.
            *("--capability=CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf perf_event_open"),
            "--console=pipe",
        ]
        layers = ":".join(map(str, self.layers))
        start = ["sh", "-c", _START, "sh", layers, str(self._overlay), str(self.cgroup)]
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *in_namespace, *start, *nspawn],
                env={"PATH": PATH, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        try:
            state = until(self._boot_state, "the end of the boot", BOOT_S)
        except (CommandFailed, TimeoutError) as error:
            raise CommandFailed(f"{self.name}: {error}\n{self._console_text()}") from error
        if state != "running":
            failed = self.run("systemctl", "--failed", "--no-legend", "--plain").stdout
            raise CommandFailed(f"{self.name} is {state} after its boot:\n{failed}")

    def _boot_state(self) -> str | None:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise CommandFailed(f"systemd-nspawn ended with {self._nspawn.returncode}")
        if not self._children():
            return None
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state if state in ("running", "degraded", "maintenance") else None

    def _console_text(self) -> str:
        return self._console.read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """End the machine at once and leave nothing of it; may be called again."""
        if self._nspawn is not None:
            # nspawn answers by killing the machine's first process, and with it all others.
            self._nspawn.send_signal(signal.SIGTERM)
            try:
                self._nspawn.wait(30)
            finally:
                self._nspawn.kill()
                self._nspawn.wait()
            self._nspawn = None
        if self._mounts != -1:
            os.close(self._mounts)
            self._mounts = -1
        if self.cgroup.exists():
            until(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text(), "its end")
            for directory, _, _ in os.walk(self.cgroup, topdown=False):
                Path(directory).rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Reaching in.

    @property
    def leader(self) -> int:
        """The process id, on this side, of the machine's first process."""
        children = self._children()
        if len(children) != 1:
            raise CommandFailed(f"{self.name} is not up\n{self._console_text()}")
        return children[0]

    def _children(self) -> list[int]:
        if self._nspawn is None:
            return []
        pid = self._nspawn.pid
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return [int(child) for child in children if _is_init(int(child))]
        return []

    @property
    def root(self) -> Path:
        """The machine's root file system from this side, to be read; /run and such are elsewhere.

        An absolute symbolic link in there leads to a file of this machine.
        """
        assert self._nspawn is not None
        return Path(f"/proc/{self._nspawn.pid}/root{self._overlay}/root")

    def run(
        self,
        *command: str,
        check: bool = True,
        user: str | None = None,
        stdin: bytes = b"",
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root or as `user`, and return what it wrote.

        Raises CommandFailed with all it wrote where it ends otherwise than 0 and `check` is set.
        """
        if user is not None:
            command = ("runuser", "-u", user, "--", *command)
        entering = ("nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net")
        within = ("--pid", "--cgroup", "--", "env", "-i", *_ENVIRONMENT)
        done = subprocess.run(
            [*entering, *within, *command],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        stdout, stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if check and done.returncode:
            said = f"{' '.join(command)} ended with {done.returncode}\n{stdout}{stderr}"
            raise CommandFailed(f"{self.name}: {said}")
        return subprocess.CompletedProcess(command, done.returncode, stdout, stderr)

    def sh(self, script: str) -> str:
        """Run a shell script in the machine, as root, and return its standard output."""
        return self.run("sh", "-euc", script).stdout

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file of root's in the machine, and make the directories above it."""
        content = content.encode() if isinstance(content, str) else content
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", path, stdin=content)

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file, or a directory with all in it, to this path in the machine."""
        if source.is_file():
            self.write(target, source.read_bytes(), source.stat().st_mode & 0o777)
            return
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(source, arcname=".")
        self.run("mkdir", "--parents", target)
        self.run("tar", "-C", target, "--no-same-owner", "-x", stdin=packed.getvalue())

    def journal(self, *matches: str) -> list[dict[str, str]]:
        """Return the journal's entries that match, oldest first: "_SYSTEMD_UNIT=ssh.service"."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--quiet", "--output=json", "--all", *matches).stdout
        return [json.loads(line) for line in lines.splitlines()]

    # Its network.

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Open sockets in the machine's network: those made inside stay there."""
        with (
            Path("/proc/thread-self/ns/net").open() as here,
            Path(f"/proc/{self.leader}/ns/net").open() as there,
        ):
            _enter_network(there.fileno())
            try:
                yield
            finally:
                _enter_network(here.fileno())

    def add_address(self, address: str) -> None:
        """Make an address one of the machine's own, until it reboots."""
        self.run("ip", "address", "replace", address, "dev", "lo")

    def ssh(
        self, user: str, identity: Path, *command: str, options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Log in from outside with this private key, and return what the command wrote."""
        settings = [
            *("BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "LogLevel=ERROR"),
            *("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"),
            *("PreferredAuthentications=publickey", "ConnectTimeout=30", *options),
        ]
        ssh = ["ssh", "-F", "none", "-i", str(identity), f"{user}@127.0.0.1"]
        ssh += [word for setting in settings for word in ("-o", setting)]
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.leader}/ns/net", "--", *ssh, *(command or ("true",))],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def until(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Return the first true value of the condition; raises TimeoutError naming `what`."""
    end = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.05)


def _is_init(pid: int) -> bool:
    """Whether this child of nspawn is already the machine's systemd."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip() in ("systemd", "init")
    return False


def _cgroup2() -> Path:
    """The cgroup that we are in, in the unified hierarchy, which may be beside the old one."""
    mounts = Path("/proc/self/mountinfo").read_text()
    mount = re.search(r"^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 ", mounts, re.MULTILINE)
    if mount is None:
        lacking("the unified cgroup hierarchy", "mount -t cgroup2 none /sys/fs/cgroup/unified")
    own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    assert own is not None
    return Path(mount[1]) / own[1]


def _enter_network(namespace: int) -> None:
    # os.setns came with Python 3.12.
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")

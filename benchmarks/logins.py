"""Whole logins: an sshd of our own on the loopback interface, and the ssh that logs in there."""

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import BenchError
from eic_sandbox.process import Running, terminate
from eic_sandbox.simulator import SSHKey
from eic_sandbox.sshd import ssh_options

_ALSO = ":/usr/sbin:/sbin"
_PATIENCE_S = 30.0


def find(program: str) -> str:
    """Path of a program of OpenSSH's."""
    path = shutil.which(program, path="/usr/bin:/bin" + _ALSO)
    if path is None:
        raise BenchError(f"there is no {program} here: apt-get install openssh-server")
    return path


def asking(command: Sequence[str]) -> list[str]:
    """Options for an sshd that asks this command for keys."""
    return [
        f"AuthorizedKeysCommand {shlex.join(command)} %u %f",
        f"AuthorizedKeysCommandUser {getpass.getuser()}",
    ]


class Sshd(Running):
    """An sshd with some options more, for one key to log in, while the context lasts."""

    def __init__(self, directory: Path, key: SSHKey, options: Sequence[str]) -> None:
        self.user = getpass.getuser()
        self._directory = directory
        self._key = key
        self._options = options

    def _start(self, ends: contextlib.ExitStack) -> None:
        self._directory.mkdir()
        if os.geteuid() == 0:
            # Where sshd puts its unprivileged child; made at boot where sshd is a service.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        host_key = self._directory / "host_key"
        keygen = [find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)]
        subprocess.run(keygen, check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        config = self._directory / "sshd_config"
        lines = [
            f"Port {self._port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {host_key}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin prohibit-password",
            "AuthenticationMethods publickey",
            *self._options,
            # The first value holds: no keys in files unless the options have some.
            "AuthorizedKeysFile none",
        ]
        config.write_text("\n".join(lines) + "\n")
        host_key_line = host_key.with_suffix(".pub").read_text()
        (self._directory / "known_hosts").write_text(f"[127.0.0.1]:{self._port} {host_key_line}")
        identity = self._directory / "identity"
        identity.touch(0o600)
        identity.write_bytes(self._key.private_openssh)
        argv = [find("sshd"), "-D", "-f", str(config), "-E", str(self._directory / "log")]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        ends.callback(terminate, self._process)
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), 5).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise BenchError(f"sshd does not start: {(self._directory / 'log').read_text()}")

    @property
    def login(self) -> list[str]:
        """The command of one login."""
        words = [find("ssh"), *ssh_options(self._directory / "known_hosts")]
        words += [
            "-p",
            str(self._port),
            "-i",
            str(self._directory / "identity"),
            f"{self.user}@127.0.0.1",
            "true",
        ]
        return words

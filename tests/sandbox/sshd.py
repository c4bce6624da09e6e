"""A real sshd on a loopback port, asking the agent for keys and nothing else."""

import getpass
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import eic_agent
from tests.sandbox.programs import SandboxError, find_program

CLIENT = Path(eic_agent.__file__).with_name("client.py")
START_TIMEOUT_S = 30.0
LOGIN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Login:
    """How one attempt to log in ended: exit status and output of ssh, and what sshd logged."""

    status: int
    stdout: str
    stderr: str
    sshd_log: str

    @property
    def accepted(self) -> bool:
        """Whether the command ran in a session that sshd granted for a public key."""
        return self.status == 0 and "Accepted publickey for " in self.sshd_log


class Sshd:
    """An sshd that runs, as whoever starts it, while the context lasts.

    Without root it lets in nobody but the user that runs it. `agent_config` is the agent's
    configuration; `directory` must be reachable by the user that the agent runs as.
    """

    def __init__(self, directory: Path, agent_config: Path) -> None:
        self.directory = directory
        self.user = getpass.getuser()
        self.port = 0
        self.log = directory / "sshd.log"
        self.agent = directory / "eic-agent"
        self.agent_log = directory / "agent.log"
        self.agent_command = [sys.executable, "-I", "-m", "eic_agent"]
        self.agent_command += ["--config", str(agent_config)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sshd":
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_agent()
        self._make_host_key()
        for _ in range(5):
            self.port = _free_port()
            if self._start():
                self._write_known_hosts()
                return self
        raise SandboxError(f"sshd does not start:\n{self.log.read_text()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def login(
        self, identities: Sequence[Path], command: str = "id -un", user: str | None = None
    ) -> Login:
        """Log in with these private keys, offered in this order."""
        logged_before = self.log.stat().st_size
        arguments = self.ssh_command(identities, command, user)
        result = subprocess.run(
            arguments, capture_output=True, text=True, timeout=LOGIN_TIMEOUT_S, check=False
        )
        with self.log.open() as log:
            log.seek(logged_before)
            return Login(result.returncode, result.stdout, result.stderr, log.read())

    def ssh_command(
        self, identities: Sequence[Path], command: str, user: str | None = None
    ) -> list[str]:
        """Return the ssh command that `login` runs."""
        options = [*self.ssh_options(), "-p", str(self.port)]
        for identity in identities:
            options += ["-i", str(identity)]
        return [
            find_program("ssh", "openssh-client"),
            *options,
            f"{user or self.user}@127.0.0.1",
            command,
        ]

    def ssh_options(self) -> list[str]:
        """Return options that keep the user's own keys and settings out of it."""
        options = (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=/dev/null",
            f"UserKnownHostsFile={self.directory / 'known_hosts'}",
        )
        return ["-F", "none", *(word for option in options for word in ("-o", option))]

    def _write_agent(self) -> None:
        """Write what the client runs as the agent: a path without arguments, so a script.

        sshd throws away what the command writes to stderr, and with it the agent's decisions on a
        machine without a journal; the script keeps them.
        """
        self.agent_log.touch()
        self.agent_log.chmod(0o666)
        log = shlex.quote(str(self.agent_log))
        self.agent.write_text(f'#!/bin/sh\nexec {shlex.join(self.agent_command)} "$@" 2>>{log}\n')
        self.agent.chmod(0o755)

    def _make_host_key(self) -> None:
        ssh_keygen = find_program("ssh-keygen", "openssh-client")
        command = [ssh_keygen, "-q", "-t", "ed25519", "-N", "", "-C", "sandbox host key"]
        subprocess.run([*command, "-f", str(self.directory / "host_key")], check=True)

    def _write_known_hosts(self) -> None:
        key = (self.directory / "host_key.pub").read_text()
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")

    def _start(self) -> bool:
        sshd = find_program("sshd", "openssh-server")
        config = self.directory / "sshd_config"
        config.write_text(self._configuration())
        if os.geteuid() == 0:
            # Where sshd puts its unprivileged child; made at boot where sshd is a service.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process = subprocess.Popen(
            [sshd, "-D", "-f", str(config), "-E", str(self.log)], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if self.log.exists() and f"port {self.port}" in self.log.read_text():
                return True
            time.sleep(0.02)
        self._process.terminate()
        self._process.wait()
        return False

    def _configuration(self) -> str:
        lookup = [
            *_python(),
            str(CLIENT),
            "--socket",
            str(self.directory / "agent.sock"),
            "--agent",
            str(self.agent),
        ]
        return f"""\
Port {self.port}
ListenAddress 127.0.0.1
HostKey {self.directory / "host_key"}
PidFile none
LogLevel VERBOSE
AuthenticationMethods publickey
AuthorizedKeysFile none
AuthorizedKeysCommand {shlex.join(lookup)} %u %f
AuthorizedKeysCommandUser {self._agent_user()}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 100
Subsystem sftp internal-sftp
"""

    def _agent_user(self) -> str:
        """Return nobody where sshd can become nobody and nobody can run the agent, else us."""
        if os.geteuid() != 0:
            return self.user
        command = [str(self.agent), "config", "check"]
        try:
            trial = subprocess.run(
                command,
                user="nobody",
                extra_groups=[],
                cwd="/",
                capture_output=True,
                check=False,
            )
        except (PermissionError, LookupError):
            return self.user
        self.agent_log.write_text("")
        return "nobody" if trial.returncode == 0 else self.user


def _python() -> list[str]:
    """Return the interpreter for the client; sshd wants the first word to be root's file."""
    if Path("/usr/bin/python3").exists():
        return ["/usr/bin/python3", "-I", "-S"]
    return ["/usr/bin/env", sys.executable, "-I", "-S"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port

"""A real sshd, on a loopback port or a machine of its own, that asks the agent for keys."""

import contextlib
import getpass
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eic_agent import client
from eic_sandbox.network import Machine, Relay
from eic_sandbox.process import Running, terminate
from eic_sandbox.programs import SandboxError, find_program

AGENT_SOCKET = Path(client.SOCKET)
CLIENT = Path(client.__file__)
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


class Sshd(Running):
    """An sshd that runs, as whoever starts it, while the context lasts.

    Without root it lets in nobody but the user that runs it. `agent_config` is the agent's
    configuration; `directory` must be reachable by the user that the agent runs as. On a machine
    of its own it listens at port 22 of `address`, and `port` is a loopback port outside that leads
    there. `settings` are lines of sshd_config that go before all others, and so win. `resident`
    starts `eic-agent serve` beside it; without, every lookup is a process of its own. `alias` is
    one more name that `known_hosts` has for it.
    """

    def __init__(
        self,
        directory: Path,
        agent_config: Path,
        *,
        machine: Machine | None = None,
        address: str = "127.0.0.1",
        user: str | None = None,
        settings: str = "",
        resident: bool = False,
        alias: str = "",
    ) -> None:
        self.directory = directory
        self.address = address
        self.user = user or getpass.getuser()
        self.port = 0
        self.log = directory / "sshd.log"
        self.agent = directory / "eic-agent"
        self.agent_log = directory / "agent.log"
        self.agent_command = [sys.executable, "-I", "-m", "eic_agent"]
        self.agent_command += ["--config", str(agent_config)]
        self._agent_config = agent_config
        self._agent_user = getpass.getuser()
        self._machine = machine
        self._settings = settings
        self._resident = resident
        self._alias = alias
        self._socket = directory / AGENT_SOCKET.name
        self._listen_port = 22 if machine else 0

    @property
    def port_inside(self) -> int:
        """The port at `address` that other instances connect to."""
        return self._listen_port

    def _start(self, ends: contextlib.ExitStack) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_agent()
        self._make_host_key()
        self._agent_user = self._unprivileged()
        if self._resident:
            self._start_agent(ends)
        for _ in range(5):
            if not self._machine:
                self._listen_port = _free_port()
            if self._start_sshd(ends):
                break
        else:
            raise SandboxError(f"sshd does not start:\n{self.log.read_text()}")
        self.port = self._listen_port
        if self._machine:
            relay = Relay(self._machine, (self.address, self._listen_port))
            ends.callback(relay.close)
            self.port = relay.port
        self._write_known_hosts()

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
        return ssh_options(self.directory / "known_hosts")

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
        hosts = f"[127.0.0.1]:{self.port}"
        for name in (self.address if self._machine else "", self._alias):
            hosts += f",{name}" if name else ""
        (self.directory / "known_hosts").write_text(f"{hosts} {key}")

    def _start_agent(self, ends: contextlib.ExitStack) -> None:
        seen = self._make_socket_directory(ends)
        if self._agent_user == "root":  # whose client runs as nobody
            clients = self._agent_config.parent / "config.d" / "50-sandbox.toml"
            clients.parent.mkdir(exist_ok=True)
            clients.write_text('[agent]\nclients = ["nobody"]\n')
        command = [*self.agent_command, "serve", "--socket", str(self._socket)]
        if self._agent_user != getpass.getuser():
            group = pwd.getpwnam(self._agent_user).pw_gid
            drop = ["setpriv", f"--reuid={self._agent_user}", f"--regid={group}", "--clear-groups"]
            command = [*drop, "--", *command]
        log = ends.enter_context(self.agent_log.open("ab"))
        process = subprocess.Popen(
            self._inside(command), stdin=subprocess.DEVNULL, stderr=log, cwd="/"
        )
        ends.callback(terminate, process)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not seen.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SandboxError(f"the agent does not start:\n{self.agent_log.read_text()}")
            time.sleep(0.02)

    def _make_socket_directory(self, ends: contextlib.ExitStack) -> Path:
        """Make a place that the agent may write to, and return the socket's path seen from here.

        It is outside our own directory, whose path may be too long for a socket's.
        """
        if self._machine:
            seen = Path(f"/proc/{self._machine.pid}/root{AGENT_SOCKET}")
            seen.parent.mkdir()
            self._socket = AGENT_SOCKET
        else:
            temporary = tempfile.TemporaryDirectory(prefix="eic-", dir="/tmp")
            seen = self._socket = Path(ends.enter_context(temporary)) / AGENT_SOCKET.name
        seen.parent.chmod(0o755)
        shutil.chown(seen.parent, self._agent_user)
        return seen

    def _inside(self, command: list[str]) -> list[str]:
        return self._machine.command(*command) if self._machine else command

    def _start_sshd(self, ends: contextlib.ExitStack) -> bool:
        sshd = find_program("sshd", "openssh-server")
        config = self.directory / "sshd_config"
        config.write_text(self._configuration())
        if os.geteuid() == 0:
            # Where sshd puts its unprivileged child; made at boot where sshd is a service.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        process = subprocess.Popen(
            self._inside([sshd, "-D", "-f", str(config), "-E", str(self.log)]),
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if self.log.exists() and f"port {self._listen_port}" in self.log.read_text():
                ends.callback(terminate, process)
                return True
            time.sleep(0.02)
        terminate(process)
        return False

    def _configuration(self) -> str:
        lookup = [
            *(_not_root() if self._agent_user == "root" else []),
            *_python(),
            str(CLIENT),
            "--socket",
            str(self._socket),
            "--agent",
            str(self.agent),
        ]
        return f"""\
{self._settings}
Port {self._listen_port}
ListenAddress {self.address}
HostKey {self.directory / "host_key"}
PidFile none
LogLevel VERBOSE
AuthenticationMethods publickey
AuthorizedKeysFile none
AuthorizedKeysCommand {shlex.join(lookup)} %u %f
AuthorizedKeysCommandUser {self._agent_user}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 100
Subsystem sftp internal-sftp
"""

    def _unprivileged(self) -> str:
        """Return nobody where sshd can become nobody and nobody can run the agent, else us."""
        if os.geteuid() != 0:
            return getpass.getuser()
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
            return getpass.getuser()
        self.agent_log.write_text("")
        return "nobody" if trial.returncode == 0 else getpass.getuser()


def ssh_options(known_hosts: Path) -> list[str]:
    """Options for an ssh that knows these hosts, and no keys or settings of the user's."""
    options = (
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        f"UserKnownHostsFile={known_hosts}",
    )
    return ["-F", "none", *(word for option in options for word in ("-o", option))]


def _python() -> list[str]:
    """Return the interpreter for the client; sshd wants the first word to be root's file."""
    if Path("/usr/bin/python3").exists():
        return ["/usr/bin/python3", "-I", "-S"]
    return ["/usr/bin/env", sys.executable, "-I", "-S"]


def _not_root() -> list[str]:
    """Return what runs the client as nobody, who opens every file as root would.

    Asked as root, the client becomes the user eic-agent, whom this machine need not have; but the
    agent may lie where only root may look.
    """
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin") or "/usr/bin/setpriv"
    capability = "+dac_override"
    keeping = [f"--inh-caps={capability}", f"--ambient-caps={capability}"]
    nobody = pwd.getpwnam("nobody")
    ids = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    return [setpriv, *ids, *keeping, "--"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port

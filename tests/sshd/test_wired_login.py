"""A running sshd asks what it is wired to ask: real logins on a loopback port."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import eic_agent
from eic_agent.sshd import status
from eic_agent.sshd.listeners import listeners
from tests.sshd.conftest import Machine
from tests.support import program, root

PACKAGE = Path(eic_agent.__file__).parent
PROC = Path("/proc")
WAIT_S = 60.0
MAIN = "Include {etc}/sshd_config.d/*.conf\nUsePAM no\nPidFile none\nAuthorizedKeysFile none\n"


@dataclass
class Live:
    """A machine with an sshd that runs; whoever it lets in is seen in its log."""

    machine: Machine
    programs: Path  # where sshd runs programs from: root's all the way up
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.machine.root / "sshd.log"

    def start(self, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        paths = self.machine.system.paths
        argv: list[str | Path] = [
            paths.sshd,
            "-D",
            "-f",
            paths.main,
            "-h",
            self.machine.key,
            "-E",
            self.log,
        ]
        argv += ["-o", f"ListenAddress=127.0.0.1:{self.port}", *options]
        self.process = subprocess.Popen(argv)
        self.wait_for_listener()

    def wait_for_listener(self) -> None:
        ends = time.monotonic() + WAIT_S
        while time.monotonic() < ends:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail(f"sshd does not listen: {self.log.read_text()}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def logs_in(self) -> bool:
        """Try once with the only key."""
        accepted = self.log.read_text().count("Accepted publickey for nobody")
        ssh = program("ssh", "openssh-client")
        argv: list[str | Path] = [ssh, "-F", "/dev/null", "-i", self.identity]
        for option in (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
        ):
            argv += ["-o", option]
        argv += ["-p", str(self.port), "nobody@127.0.0.1", "true"]
        subprocess.run(argv, capture_output=True, timeout=WAIT_S, check=False)
        return self.log.read_text().count("Accepted publickey for nobody") > accepted

    def comes_to(self, *, log_in: bool) -> None:
        """Wait until logins end so: sshd needs a moment to reload."""
        ends = time.monotonic() + WAIT_S
        while time.monotonic() < ends:
            if self.logs_in() == log_in:
                return
        pytest.fail(f"logins still do not end so: {log_in}\n{self.log.read_text()}")

    @property
    def identity(self) -> Path:
        path = self.machine.root / "id"
        if not path.exists():
            keygen = program("ssh-keygen", "openssh-client")
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path

    def install(self, name: str, text: str) -> Path:
        path = self.programs / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def granting(self, name: str) -> Path:
        """Install a program that prints the key and writes down its arguments, one run a line."""
        key = self.identity.with_suffix(".pub").read_text()
        return self.install(
            name,
            "#!/usr/bin/python3 -IS\n"
            "import json, sys\n"
            f"with open('{self.programs}/written/runs', 'a') as runs:\n"
            "    runs.write(json.dumps(sys.argv[1:]) + '\\n')\n"
            f"print({key!r}, end='')\n",
        )

    def runs(self) -> list[str]:
        """Arguments of each run since the last time asked."""
        path = self.programs / "written/runs"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def use_client(self, client: Path) -> None:
        paths = dataclasses.replace(self.machine.system.paths, client=client)
        self.machine.system = dataclasses.replace(self.machine.system, paths=paths)


@pytest.fixture
def live(machine: Machine) -> Iterator[Live]:
    root()  # sshd lets in another user, and runs only root's programs
    machine.write("sshd_config", MAIN)
    programs = Path(tempfile.mkdtemp(prefix="eic-agent-test-", dir="/run"))
    programs.chmod(0o755)
    (programs / "written").mkdir()
    (programs / "written").chmod(0o777)
    running = Live(machine, programs)
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(programs)


def test_a_running_sshd_asks_us_from_the_reload_on_and_no_more_after_the_next(live: Live) -> None:
    live.use_client(live.granting("client"))
    live.start()
    assert live.process is not None
    live.machine.run_systemd(
        f'case "$1" in reload) kill -HUP {live.process.pid} ;; show) echo Id=ssh.service;'
        f" echo ActiveState=active; echo MainPID={live.process.pid}; echo LoadState=loaded ;; esac"
    )
    assert not live.logs_in()
    assert "reloaded ssh.service" in live.machine.enable()
    live.comes_to(log_in=True)
    assert live.process.poll() is None
    assert all(json.loads(run)[0] == "nobody" for run in live.runs())
    live.machine.disable()
    live.comes_to(log_in=False)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        " %u %f %t %h %U",
        " %k",
        r""" "two words" 'with "quotes"' back\ slash \"q\" \n "\\" "" # %%u 100%% %u""",
        " --chain /bin/true %u",
    ],
)
def test_a_chained_command_gets_what_sshd_alone_gave_it_and_its_keys_count(
    live: Live, arguments: str
) -> None:
    """With the real client, and no agent that would answer."""
    command = live.granting("with%percent/command")
    live.machine.write(
        "sshd_config.d/30-x.conf",
        f"AuthorizedKeysCommand {command}{arguments}\nAuthorizedKeysCommandUser nobody\n",
    )
    for name in ("client.py", "client_chain.py", "client_fallback.py"):
        live.install(name, (PACKAGE / name).read_text())
    live.use_client(live.programs / "client.py")
    live.start()
    assert live.logs_in()
    alone = live.runs()

    live.machine.enable()
    live.stop()
    live.start()
    assert live.logs_in()
    assert live.runs() == alone
    assert len(alone) == 2


def spoil_by_a_group(live: Live, command: Path) -> None:
    """Somebody of the program's group writes another one into it."""
    os.chown(command, 0, OTHER)
    command.chmod(0o775)
    become_other = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    line = "\n# changed\n"
    subprocess.run([*become_other, "tee", "-a", command], input=line.encode(), check=True)
    assert line in command.read_text()


def spoil_the_directory(live: Live, command: Path) -> None:
    """Somebody puts his own program in the place of root's."""
    command.parent.chmod(0o777)
    become_other = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    subprocess.run([*become_other, "cp", command, f"{command}.mine"], check=True)
    subprocess.run([*become_other, "mv", "-f", f"{command}.mine", command], check=True)
    command.parent.chmod(0o755)


def spoil_the_link(live: Live, command: Path) -> None:
    """A link leads to where somebody else keeps the program."""
    theirs = live.programs / "written/command"
    shutil.copy(command, theirs)
    command.unlink()
    command.symlink_to(theirs)


def leave_the_directory_open(live: Live, command: Path) -> None:
    os.chown(command.parent, 0, OTHER)
    command.parent.chmod(0o775)


OTHER = 1  # an unprivileged second user, daemon


@pytest.mark.parametrize(
    "spoil", [spoil_by_a_group, spoil_the_directory, spoil_the_link, leave_the_directory_open]
)
def test_what_sshd_would_not_run_any_more_runs_not_through_us_either(
    live: Live, spoil: Callable[[Live, Path], None]
) -> None:
    """It was in order when it was chained; sshd sees only our client, whose owner never changed."""
    command = live.granting("theirs/command")
    settings = f"AuthorizedKeysCommand {command} %u\nAuthorizedKeysCommandUser nobody\n"
    setting = live.machine.write("sshd_config.d/30-x.conf", settings)
    for name in ("client.py", "client_chain.py", "client_fallback.py"):
        live.install(name, (PACKAGE / name).read_text())
    live.use_client(live.programs / "client.py")
    live.machine.enable()
    live.start()
    assert live.logs_in()
    assert live.runs()

    spoil(live, command)
    assert not live.logs_in()
    assert live.runs() == []

    live.machine.disable()
    assert str(command) in setting.read_text()
    live.stop()
    live.start()
    assert not live.logs_in(), "sshd alone would have run it"
    assert "Unsafe AuthorizedKeysCommand" in live.log.read_text()


def test_a_listener_tells_by_its_title_how_it_was_started(live: Live) -> None:
    live.start("-o", "AuthorizedKeysCommand /usr/bin/env %u", "-oAuthorizedKeysCommandUser=daemon")
    assert live.process is not None
    sshd = live.machine.system.paths.sshd
    (found,) = [one for one in listeners(PROC, sshd) if one.pid == live.process.pid]
    assert found.config == str(live.machine.system.paths.main)
    assert found.option("authorizedkeyscommand") == "/usr/bin/env %u"
    assert found.option("authorizedkeyscommanduser") == "daemon"

    paths = dataclasses.replace(live.machine.system.paths, proc=PROC)
    live.machine.system = dataclasses.replace(live.machine.system, paths=paths)
    assert f"process {live.process.pid} starts sshd with -o" in live.machine.refused()
    assert status.find(live.machine.system).set_at == f"process {live.process.pid}"
    live.stop()
    assert not any(one.config == found.config for one in listeners(PROC, sshd))


def test_a_hangup_as_we_advise_makes_sshd_read_the_drop_in(live: Live) -> None:
    live.use_client(live.granting("client"))
    live.start()
    assert live.process is not None
    paths = dataclasses.replace(live.machine.system.paths, proc=PROC)
    live.machine.system = dataclasses.replace(live.machine.system, paths=paths)
    assert f"`kill -HUP {live.process.pid}`" in live.machine.enable()
    os.kill(live.process.pid, signal.SIGHUP)
    live.comes_to(log_in=True)

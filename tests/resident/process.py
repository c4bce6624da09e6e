"""Runs the scripted agent and talks to it."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from eic_agent import client
from eic_agent.resident.connection import STATUS_PROTOCOL

PATIENCE_S = 30.0
FINGERPRINT = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll; generous, since the machine may be busy."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"waited in vain: {what}"
        time.sleep(0.01)


# Passes a socket as systemd does: as descriptor 3, with the process id that it will have.
LIKE_SYSTEMD = """
import os, sys
if sys.argv[1]:
    os.dup2(int(sys.argv[1]), 3)
    os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Agent:
    """A scripted agent process that listens at a path, or on descriptor 3 as systemd has it."""

    def __init__(
        self,
        directory: Path,
        *,
        listening: socket.socket | None = None,
        environment: dict[str, str] | None = None,
        **config: object,
    ) -> None:
        self.path = directory / "agent.sock"
        self.config = directory / "config.json"
        self.configure(**config)
        self._errors = directory / "stderr"
        argv = [sys.executable, "-m", "tests.resident.scripted", str(self.config)]
        if listening is None:
            argv.append(str(self.path))
        passed = str(listening.fileno()) if listening else ""
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", LIKE_SYSTEMD, passed, *argv],
                cwd=ROOT,
                env={"PYTHONPATH": str(ROOT), **(environment or {})},
                pass_fds=[listening.fileno()] if listening else [],
                stderr=errors,
            )

    def configure(self, **config: object) -> None:
        self.config.write_text(json.dumps(config))

    def wait_until_ready(self) -> "Agent":
        def answers() -> bool:
            assert self.process.poll() is None, self.errors()
            with contextlib.suppress(OSError, ValueError):  # slow to start
                return self.ask("ready")[0] == b"A"
            return False

        wait_until(answers, "for the agent to listen")
        return self

    def ask(self, user: str, within_s: float = PATIENCE_S) -> tuple[bytes, bytes]:
        """What client.py gets, whatever the time; ValueError or OSError for no whole answer."""
        return client.ask(str(self.path), user, FINGERPRINT, 42, time.monotonic() + within_s)

    def status(self) -> dict[str, int]:
        with self.connect() as connection:
            send(connection, STATUS_PROTOCOL)
            verdict, payload = answer_of(connection)
        assert verdict == b"A"
        counters: dict[str, int] = json.loads(payload)
        return counters

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE_S)
        try:
            connection.connect(str(self.path))
        except OSError:
            connection.close()
            raise
        return connection

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def errors(self) -> str:
        return self._errors.read_text()

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def ends(self) -> int:
        """Wait for the end; the exit status."""
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def agent_in(directory: Path, **config: object) -> Iterator[Agent]:
    """Give an agent that answers, and kill it at the end."""
    agent = Agent(directory, **config)  # type: ignore[arg-type] # the options are all named
    try:
        yield agent.wait_until_ready()
    finally:
        agent.signal(signal.SIGCONT)
        agent.kill()


def request(
    user: bytes = b"echo",
    *,
    fingerprint: bytes = FINGERPRINT.encode(),
    pid: bytes = b"42",
    ms: bytes = b"3900",
) -> bytes:
    return b"\0".join((client.PROTOCOL, user, fingerprint, pid, ms))


def send(connection: socket.socket, content: bytes) -> None:
    connection.sendall(len(content).to_bytes(2, "big") + content)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def answer_of(connection: socket.socket) -> tuple[bytes, bytes]:
    received = everything(connection)
    assert received[:1] == client.GREETING
    assert len(received) == 6 + int.from_bytes(received[2:6], "big")
    return received[1:2], received[6:]

"""Resident agents: one that runs on, and one that the first lookup starts, as systemd does."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import Vitals
from benchmarks.machine import PYTHON, BenchError
from benchmarks.metadata import process_cpu_s
from eic_sandbox.process import Running, announced, terminate

PATIENCE_S = 30.0
_ANSWERER = Path(__file__).with_name("answerer.py")


def answerer(path: Path, line: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Serve answerer.py at a path, with this line for an answer."""
    return announced([PYTHON, "-I", "-S", str(_ANSWERER), str(path), line])


class Resident(Running):
    """`eic-agent serve --socket PATH`, running while the context lasts."""

    def __init__(self, agent: Path, path: Path) -> None:
        self._argv = [str(agent), "serve", "--socket", str(path)]
        self.path = path
        self.cpu_before_s = 0.0

    def _start(self, ends: contextlib.ExitStack) -> None:
        self._process = subprocess.Popen(self._argv, stderr=subprocess.DEVNULL)
        ends.callback(terminate, self._process)
        deadline = time.monotonic() + PATIENCE_S
        while not self.path.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"the agent does not start: {' '.join(self._argv)}")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def vitals(self) -> Vitals:
        """What it holds now."""
        return Vitals.of(self.pid)

    def prepare(self) -> None:
        """Remember how much CPU it had used before a lookup."""
        self.cpu_before_s = process_cpu_s(self.pid)

    def meanwhile(self) -> None:
        """Nothing has to be done for its lookups."""

    def finish(self) -> float:
        """Give the seconds of CPU that it took since."""
        return process_cpu_s(self.pid) - self.cpu_before_s


class Activated(Running):
    """An agent that is not there; the socket is, and who connects to it starts the agent."""

    def __init__(self, agent: Path, path: Path, traced_by: Sequence[str] = ()) -> None:
        """`traced_by` is a program that runs its arguments in its own process."""
        # LISTEN_PID must be the agent's, which is known only in its process: sd_listen_fds(3).
        start = 'LISTEN_PID=$$ exec "$0" serve'
        self._argv = [*traced_by, "/bin/sh", "-c", start, str(agent)]
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._pid: int | None = None

    def _start(self, ends: contextlib.ExitStack) -> None:
        ends.enter_context(self._listener)
        self._listener.bind(str(self.path))
        self._listener.listen(128)

    def prepare(self) -> None:
        """Nothing has to be done: the agent of the last lookup has gone."""

    def meanwhile(self) -> None:
        """Wait for the connection, and start the agent."""
        ready, _, _ = select.select([self._listener], [], [], PATIENCE_S)
        if not ready:
            raise BenchError(f"nobody connected to {self.path}")
        environment = {"LISTEN_FDS": "1", "PATH": "/usr/bin:/bin"}
        actions = [
            (os.POSIX_SPAWN_DUP2, self._listener.fileno(), 3),
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
        ]
        self._pid = os.posix_spawn(self._argv[0], self._argv, environment, file_actions=actions)

    def finish(self) -> float:
        """Stop it, and give the seconds of CPU that it took since it was started."""
        assert self._pid is not None
        cpu_s = process_cpu_s(self._pid)
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        self._pid = None
        return cpu_s


class Nobody:
    """In place of an agent for who asks none."""

    def prepare(self) -> None:
        """Do nothing."""

    def meanwhile(self) -> None:
        """Do nothing."""

    def finish(self) -> float:
        """Nobody takes no CPU."""
        return 0.0


Agent = Resident | Activated | Nobody

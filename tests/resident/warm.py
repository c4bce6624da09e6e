"""The resident agent itself, in a process of its own, beside a simulated instance."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eic_agent import client
from eic_sandbox.simulator import MetadataSimulator, SSHKey, new_key
from eic_sandbox.simulator.host import write_config
from tests.resident.process import PATIENCE_S, wait_until

# Sets the wall clock of this process alone, by as many seconds as a file says.
CLOCK = """
import sys, time
from pathlib import Path
clock = time.time
offset = Path(sys.argv.pop(1))
time.time = lambda: clock() + float(offset.read_text())
from eic_agent.cli import main
sys.exit(main())
"""


@dataclass
class WarmAgent:
    """An agent that has granted a key of alice's."""

    sim: MetadataSimulator
    directory: Path
    deadline_s: float
    key: SSHKey = field(default_factory=new_key)
    process: "subprocess.Popen[bytes]" = field(init=False)

    def set_clock(self, seconds: float) -> None:
        """Show the agent another time, from now on by so many seconds."""
        (self.directory / "offset").write_text(str(seconds))

    def configure(self, **tables: dict[str, object]) -> Path:
        """Write its configuration, with these tables besides what the simulation needs."""
        return write_config(self.directory / "config.toml", {**self._tables, **tables})

    def lookup(self, user: str) -> bytes | None:
        """Give what sshd's client gets; None where there was no answer in time."""
        path, ends = str(self.directory / "agent.sock"), time.monotonic() + self.deadline_s
        try:
            return client.ask(path, user, "", 1, ends)[1]
        except (OSError, ValueError):
            return None

    def grants(self, user: str, key: SSHKey) -> bool:
        """Whether sshd is told of this key and no other."""
        return self.lookup(user) == f"{key.line}\n".encode()

    @contextlib.contextmanager
    def run(self, **tables: dict[str, object]) -> Iterator[None]:
        """Start the simulated metadata and the agent, and wait for the first grant."""
        anchors = self.directory / "anchors.pem"
        anchors.write_bytes(self.sim.anchors_pem)
        self.set_clock(0)
        with self.sim.serve() as url:
            self._tables: dict[str, dict[str, object]] = {
                "imds": {"endpoint": url, "timeout_s": 5.0, "deadline_s": self.deadline_s},
                "identity": {"sysfs_root": str(self.sim.sysfs(self.directory))},
                "trust": {"anchors": str(anchors)},
            }
            config = self.configure(**tables)
            socket = self.directory / "agent.sock"
            words = ["--config", str(config), "serve", "--socket", str(socket)]
            argv = [sys.executable, "-c", CLOCK, str(self.directory / "offset"), *words]
            self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
            try:
                wait_until(socket.exists, "the agent listens")
                self.sim.push("alice", self.key)
                wait_until(lambda: self.grants("alice", self.key), "a first grant")
                yield
            finally:
                self.process.terminate()
                self.process.wait(PATIENCE_S)

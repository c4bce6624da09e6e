"""The simulated metadata service in a process of its own, so that it takes no time of the bench."""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from eic_sandbox.process import Running
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import ACTIVE_KEYS, META, SIGNER_CERT, SIGNER_OCSP

INSTANCE_ID = "i-0123456789abcdef0"
_T = TypeVar("_T")


class MetadataProcess(Running):
    """A simulator that serves IMDSv2 elsewhere while the context lasts."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._lock = threading.Lock()
        self._address = (host, port)

    def _start(self, ends: contextlib.ExitStack) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, *self._address), daemon=True)
        self._process.start()
        # It leaves once nobody can ask it any more.
        ends.callback(self._process.join)
        ends.enter_context(self._pipe)
        there.close()
        self.url: str = self._pipe.recv()

    def do(self, action: Callable[..., _T], *args: object) -> _T:
        """Call a module's function over there, with the simulator before the arguments."""
        with self._lock:
            self._pipe.send((action, args))
            result: _T = self._pipe.recv()
        return result

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that it has used."""
        assert self._process.pid is not None
        return process_cpu_s(self._process.pid)


def process_cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and all its threads (clock_getcpuclockid(3), in ns)."""
    return time.clock_gettime(~pid << 3 | 2)


def _serve(pipe: Connection, host: str, port: int) -> None:
    sim = MetadataSimulator(instance_id=INSTANCE_ID)
    with sim.serve(host, port) as url:
        pipe.send(url)
        while True:
            try:
                action, args = pipe.recv()
            except EOFError:
                return
            pipe.send(action(sim, *args))


# Actions.


def push(sim: MetadataSimulator, user: str, lines: list[str], lifetime_s: int) -> None:
    """Replace a user's keys; they are signed now and not when somebody asks."""
    sim.keys[user] = []
    for line in lines:
        sim.push(user, line, expires=int(sim.now) + lifetime_s)
    path = f"{ACTIVE_KEYS}{user}/"
    sim.documents.pop(path, None)
    sim.documents[path] = sim.get(path)[1]


def push_one(sim: MetadataSimulator, user: str, line: str, expires: int) -> None:
    """Add a key beside those that the user has, and forget what expired a while ago."""
    blocks = sim.keys.get(user, [])
    sim.keys[user] = [b for b in blocks if isinstance(b.expires, int) and b.expires > sim.now - 5]
    sim.push(user, line, expires=expires)


def set_linger(sim: MetadataSimulator, seconds: float) -> None:
    """Serve keys so long after their expiry."""
    sim.linger_s = seconds


def answer_late(sim: MetadataSimulator, seconds: float) -> None:
    """Let every answer be so old when it arrives."""
    sim.faults = {"*": faults.delay(seconds)} if seconds else {}


def prepare_signer(sim: MetadataSimulator) -> None:
    """Sign staples and assemble the chain now; the staples are good for days."""
    names = sim.get(SIGNER_OCSP)[1].decode().split()
    for path in (SIGNER_CERT, SIGNER_OCSP, *(SIGNER_OCSP + name for name in names)):
        sim.documents[path] = sim.get(path)[1]


def anchors_pem(sim: MetadataSimulator) -> bytes:
    """The root, to trust."""
    return sim.anchors_pem


def root_name(sim: MetadataSimulator) -> str:
    """The root's common name."""
    assert sim.pki.root.common_name is not None
    return sim.pki.root.common_name


def set_latency(sim: MetadataSimulator, seconds: float) -> None:
    """Let every answer take so much longer."""
    sim.latency_s = seconds


def take_requests(sim: MetadataSimulator) -> dict[str, int]:
    """How often each path was asked for since the last time, and how often at once at most."""
    seen = {path.removeprefix(META): n for path, n in sim.requests.items()}
    sim.reset_counters()
    return seen


def most_at_once(sim: MetadataSimulator, user: str) -> int:
    """How many requests for a user's keys were in progress together."""
    return sim.most_concurrent[f"{ACTIVE_KEYS}{user}/"]

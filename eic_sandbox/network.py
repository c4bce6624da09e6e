"""Machines for instances: namespaces of their own for network, mounts and host name.

A bridge in a further network namespace connects them; nothing of the machine's own network is
touched. Every namespace lives as long as a process that waits for us, so that nothing is left when
we are gone, however we end.
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from eic_sandbox.programs import SandboxError

METADATA_ADDRESS = "169.254.169.254"
PREFIX_LENGTH = 20
_BRIDGE = "vpc"
_CLONE_NEWNET = 0x40000000
_Result = TypeVar("_Result")


def obstacle() -> str | None:
    """Say what keeps us from making such machines here; None where nothing does."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    for program in ("ip", "nsenter", "unshare", "mount"):
        if shutil.which(program) is None:
            return f"there is no {program} here"
    trial = ["unshare", "--net", "--mount", "--uts", "ip", "link", "add", "x", "type", "bridge"]
    result = subprocess.run(trial, capture_output=True, text=True, check=False)
    return result.stderr.strip() or None if result.returncode else None


@dataclass(frozen=True)
class Machine:
    """A machine by the process that holds its namespaces."""

    pid: int

    def command(self, *words: str) -> list[str]:
        """Return the command that runs this one inside."""
        inside = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--"]
        return [*inside, *words]

    def run(self, *words: str) -> None:
        """Run a command inside; raises SandboxError."""
        result = subprocess.run(self.command(*words), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise SandboxError(f"{' '.join(words)}: {result.stderr.strip()}")

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Call a function inside the network namespace; sockets that it makes belong there."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._enter_and_call, function).result()

    def _enter_and_call(self, function: Callable[[], _Result]) -> _Result:
        libc = ctypes.CDLL(None, use_errno=True)
        namespace = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            # Only this thread moves, and it ends with the call.
            if libc.setns(namespace, _CLONE_NEWNET) != 0:
                raise SandboxError(f"setns: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(namespace)
        return function()


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """Make a machine without any network but loopback."""
    command = ["unshare", "--net", "--mount", "--uts", "--propagation", "private"]
    command += ["sh", "-c", "echo made; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"made\n":
                raise SandboxError("unshare makes no namespaces")
            made = Machine(process.pid)
            made.run("ip", "link", "set", "lo", "up")
            yield made
        finally:
            process.stdin.close()
            process.wait()


@contextlib.contextmanager
def network() -> Iterator[Machine]:
    """Make the machine that holds the bridge."""
    with machine() as router:
        router.run("ip", "link", "add", _BRIDGE, "type", "bridge")
        router.run("ip", "link", "set", _BRIDGE, "up")
        yield router


def attach(router: Machine, instance: Machine, address: str) -> None:
    """Put an instance on the bridge under this address, with a place for its metadata service."""
    port = "p" + address.replace(".", "-")[-13:]
    peer = ["peer", "name", "eth0", "netns", str(instance.pid)]
    router.run("ip", "link", "add", port, "type", "veth", *peer)
    router.run("ip", "link", "set", port, "master", _BRIDGE, "up")
    instance.run("ip", "address", "add", f"{address}/{PREFIX_LENGTH}", "dev", "eth0")
    instance.run("ip", "address", "add", f"{METADATA_ADDRESS}/32", "dev", "lo")
    instance.run("ip", "link", "set", "eth0", "up")


class Relay:
    """A loopback port of the machine outside that leads to an address inside."""

    def __init__(self, inside: Machine, target: tuple[str, int]) -> None:
        self._inside = inside
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._carriers: set[threading.Thread] = set()
        self._closing = False
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            carriers = list(self._carriers)
        for thread in (self._acceptor, *carriers):
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                outer, _ = self._listener.accept()
            except OSError:
                continue
            carrier = threading.Thread(target=self._carry, args=(outer,), daemon=True)
            with self._lock:
                self._carriers.add(carrier)
            carrier.start()

    def _carry(self, outer: socket.socket) -> None:
        with outer, self._inside.call(socket.socket) as inner:
            try:
                inner.connect(self._target)
            except OSError:
                with self._lock:
                    self._carriers.discard(threading.current_thread())
                return
            with self._lock:
                self._open |= {outer, inner}
            back = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
            back.start()
            _pump(outer, inner)
            back.join()
            with self._lock:
                self._open -= {outer, inner}
                self._carriers.discard(threading.current_thread())


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)

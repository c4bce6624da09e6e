"""Runs programs by way of launcher.py, and holds what they cost."""

import contextlib
import marshal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from eic_sandbox.process import Running

LAUNCHER = Path(__file__).with_name("launcher.py")
# What sshd gives to its AuthorizedKeysCommand.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "USER": "root",
    "LOGNAME": "root",
    "HOME": "/root",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took: seconds, seconds of CPU with its children, peak of its largest process."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    status: int
    stdout: bytes


class Launcher(Running):
    """A launcher process, there while the context lasts."""

    def __init__(self, python: str) -> None:
        self._python = python

    def _start(self, ends: contextlib.ExitStack) -> None:
        argv = [self._python, "-I", "-S", str(LAUNCHER)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        # It leaves once nobody can ask it any more.
        ends.enter_context(self._pipe(self._process.stdout))
        ends.callback(self._process.wait)
        ends.enter_context(self._pipe(self._process.stdin))

    def run(
        self,
        argv: Sequence[str],
        *,
        weigh: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] | None = None,
    ) -> Cost:
        """Run it; `meanwhile` is called as soon as it has been asked for.

        `weigh` gets its peak memory right and its time a little too long, otherwise it is the time
        that is right.
        """
        self._ask(1, argv, weigh=weigh, environment=environment or {})
        meanwhile()
        ((cost,), _) = self._costs()
        return cost

    def run_at_once(self, copies: int, argv: Sequence[str]) -> tuple[list[Cost], float]:
        """Run many copies at once; give what each cost, and seconds until the last has ended."""
        self._ask(copies, argv, weigh=False)
        return self._costs()

    def _ask(
        self,
        copies: int,
        argv: Sequence[str],
        *,
        weigh: bool,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        variables = {**ENVIRONMENT, **(environment or {})}
        request = marshal.dumps((copies, weigh, list(argv), variables), 2)
        stdin = self._pipe(self._process.stdin)
        stdin.write(len(request).to_bytes(4, "big") + request)
        stdin.flush()

    def _costs(self) -> tuple[list[Cost], float]:
        stdout = self._pipe(self._process.stdout)
        length = int.from_bytes(stdout.read(4), "big")
        total_s, costs = marshal.loads(stdout.read(length))
        return [Cost(*cost) for cost in costs], total_s

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

"""What runs while a context lasts: processes, threads and listeners, ended in one place."""

import abc
import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import TypeVar

_Self = TypeVar("_Self", bound="Running")


class Running(abc.ABC):
    """A context manager of which a subclass says how it starts, and with that how it ends.

    What was started is ended in reverse order, also where a later part of the start fails.
    """

    _ends: contextlib.ExitStack

    def __enter__(self: _Self) -> _Self:
        with contextlib.ExitStack() as ends:
            self._start(ends)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    @abc.abstractmethod
    def _start(self, ends: contextlib.ExitStack) -> None:
        """Start it, and put into `ends` what ends each part of it."""


@contextlib.contextmanager
def announced(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the context ends, which begins when the program has printed a line."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.terminate()


def terminate(process: subprocess.Popen[bytes]) -> None:
    """End a process by SIGTERM, and wait until it has gone."""
    process.terminate()
    process.wait()

"""The threads that answer lookups, one after the other, beside the loop that takes them."""

import collections
import contextlib
import enum
import queue
import socket
import threading
from collections.abc import Callable, Iterator

from eic_agent.resident.connection import Connection, Request
from eic_agent.resident.limits import Counters


class Outcome(enum.Enum):
    """How a worker left a connection."""

    ANSWERED = enum.auto()
    STATUS = enum.auto()
    OVERLOADED = enum.auto()
    FAILED = enum.auto()


Asked = Request | Counters  # Counters: those of now, for the status
Respond = Callable[[Connection, Asked], Outcome]


class Pool:
    """Worker threads, started while there is more to do than there are; used by the loop only."""

    def __init__(self, respond: Respond, threads: int, wake: socket.socket) -> None:
        """Call `respond` in at most so many threads; a byte into `wake` tells of each end."""
        self._respond = respond
        self._most = threads
        self._wake = wake
        self._jobs: queue.SimpleQueue[tuple[Connection, Asked] | None] = queue.SimpleQueue()
        self._done: collections.deque[tuple[Connection, Outcome, threading.Thread]] = (
            collections.deque()
        )
        self._threads: set[threading.Thread] = set()

    def __len__(self) -> int:
        """Give the number of threads that there are."""
        return len(self._threads)

    def put(self, connection: Connection, asked: Asked) -> None:
        """Have a request answered as soon as a thread is free; `staff` sees to threads."""
        self._jobs.put((connection, asked))

    def staff(self, busy: int) -> None:
        """Start threads for so many connections that wait or are being answered."""
        while len(self._threads) < min(busy, self._most):
            thread = threading.Thread(target=self._work, name="lookup", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives no more; those we have must do
                if not self._threads:
                    raise
                return
            self._threads.add(thread)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            connection, asked = job
            outcome = Outcome.FAILED
            try:
                outcome = self._respond(connection, asked)
            finally:  # an error of our own ends the thread and is shown by threading.excepthook
                self._done.append((connection, outcome, threading.current_thread()))
                with contextlib.suppress(OSError):
                    self._wake.send(b"\0")

    def settled(self) -> Iterator[tuple[Connection, Outcome]]:
        """Give the connections that workers have done with since the last call."""
        while self._done:
            connection, outcome, thread = self._done.popleft()
            if outcome is Outcome.FAILED:
                self._threads.discard(thread)
            yield connection, outcome

    def close(self, timeout_s: float) -> None:
        """Let idle threads end; wait so long for each of the others."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

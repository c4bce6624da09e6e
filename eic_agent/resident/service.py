"""The resident agent's loop: what it waits for, signals, and when it ends.

One thread, the loop, accepts connections, checks peers, reads requests and takes every decision
about the service itself; worker threads do nothing but answer one lookup after the other. Signals
and finished workers reach the loop through one pipe. The wire is described in client.py, who is
admitted in connections.py, which configuration holds in active.py.
"""

import contextlib
import functools
import gc
import math
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable

from eic_agent.journal.writer import Journal
from eic_agent.resident.active import ActiveConfiguration
from eic_agent.resident.connections import Connections
from eic_agent.resident.limits import DEFAULT_LIMITS, Handlers, Limits
from eic_agent.resident.listener import Listener
from eic_agent.resident.notify import Notifier
from eic_agent.resident.pressure import Pressure
from eic_agent.resident.upkeep import Timer

_PRESSED_AGAIN_S = 60.0  # pressure after this long is another one


class Service:
    """Answers on a listener until told to stop or idle for long."""

    def __init__(
        self,
        listener: Listener,
        load: Callable[[], Handlers],
        handlers: Handlers,
        journal: Journal,
        notifier: Notifier,
        limits: Limits = DEFAULT_LIMITS,
        hand_over: Callable[[], Iterable[tuple[int, float]]] = tuple,
        pressure: Pressure | None = None,
    ) -> None:
        """`load` reads the configuration again, be it valid or not.

        `hand_over` gives what was accepted on the listener before, as descriptors and when that
        was on the monotonic clock, and ends the accepting.
        """
        self._listener = listener
        self._journal = journal
        self._notifier = notifier
        self._limits = limits
        self._hand_over = hand_over
        self._pressure = pressure
        self._pressed_at = -math.inf
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._upkeep = Timer(self._wake)
        self._active = ActiveConfiguration(load, handlers, journal, self._upkeep, limits.stuck_s)
        self._connections = Connections(self._active, journal, limits, self._selector, self._wake)
        self._alive_at = time.monotonic()
        self._leave_at: float | None = None  # set once no more is accepted

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or idle; SIGHUP reloads. Signals want the main thread."""
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_wake)
        accept = functools.partial(self._connections.accept, self._listener.socket)
        self._selector.register(self._listener.socket, selectors.EVENT_READ, accept)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ignore)  # what counts is the byte that it puts into the pipe
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            if self._pressure is not None:
                pressed = functools.partial(self._on_pressure, self._pressure)
                self._selector.register(self._pressure, selectors.EVENT_READ, pressed)
            self._active.start()
            self._connections.take_over(self._hand_over())
            self._notifier.ready()
            while not self._is_over():
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
            self._close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience_s()):
            key.data()
        self._journal.tick()
        now = time.monotonic()
        self._connections.drop_unfinished(now)
        if self._notifier.alive_every_s is not None and now >= self._alive_at:
            self._alive_at = now + self._notifier.alive_every_s
            if not self._connections.is_stuck(now):
                self._notifier.alive()
        if now >= self._upkeep_at():
            self._upkeep.run()
        self._active.retire(now)
        if self._leave_at is None and now >= self._idle_at():
            self._journal.info("idle: leaving until the next lookup")
            self._stop()

    def _patience_s(self) -> float | None:
        moments = [
            self._idle_at(),
            self._upkeep_at(),
            self._connections.reading_ends_at,
            self._active.retires_at,
        ]
        if self._notifier.alive_every_s is not None:
            moments.append(self._alive_at)
        if self._leave_at is not None:
            moments.append(self._leave_at)
        if (due_in := self._journal.due_in()) is not None:
            moments.append(time.monotonic() + due_in)
        earliest = min(moments)
        return None if earliest == math.inf else max(earliest - time.monotonic(), 0)

    def _idle_at(self) -> float:
        idle_exit_s = self._active.handlers.idle_exit_s
        waits = len(self._connections) or self._leave_at is not None or not idle_exit_s
        return math.inf if waits else self._connections.idle_since + idle_exit_s

    def _upkeep_at(self) -> float:
        """Lookups come first: what they fetch need not be fetched again."""
        waits = len(self._connections) or self._leave_at is not None
        return math.inf if waits else self._upkeep.due_at

    def _is_over(self) -> bool:
        return self._leave_at is not None and (
            not len(self._connections) or time.monotonic() >= self._leave_at
        )

    # -- signals and the end ---------------------------------------------------------------------

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            received = set(self._woken.recv(65536))
            self._connections.settle()
            if received & {signal.SIGTERM, signal.SIGINT}:
                self._stop()
            elif signal.SIGHUP in received:
                self._reload()

    def _reload(self) -> None:
        self._notifier.reloading()
        self._connections.counters.reloads += 1
        self._active.reload()
        self._notifier.ready()

    def _on_pressure(self, pressure: Pressure) -> None:
        """Give back what is not needed; the second time within a while, all of it.

        The socket stays, and the next lookup starts the agent again.
        """
        pressure.take()
        now = time.monotonic()
        pressed_before, self._pressed_at = self._pressed_at, now
        gc.collect()
        if now - pressed_before < _PRESSED_AGAIN_S and self._leave_at is None:
            self._journal.info("memory is short: leaving until the next lookup")
            self._stop()

    def _stop(self) -> None:
        """Accept nothing more but what has connected already, and let answers finish."""
        if self._leave_at is not None:
            return
        self._notifier.stopping()
        limits, handlers = self._limits, self._active.handlers
        longest_s = limits.request_s + handlers.deadline_s + limits.answer_s
        self._leave_at = time.monotonic() + longest_s
        self._listener.withdraw()
        self._connections.accept(self._listener.socket, limits.connections)
        self._selector.unregister(self._listener.socket)

    def _close(self) -> None:
        self._listener.close()
        self._connections.close()
        self._active.close()
        self._selector.close()
        if self._pressure is not None:
            self._pressure.close()
        self._woken.close()
        self._wake.close()


def _ignore(_number: int, _frame: object) -> None:
    pass

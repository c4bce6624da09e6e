"""The resident agent's socket: who may ask, how much at a time, and when it ends.

One thread, the loop, accepts connections, checks peers, reads requests and takes every decision
about the service itself; worker threads do nothing but answer one lookup after the other. Signals
and finished workers reach the loop through one pipe. The wire is described in client.py.

A connection holds one slot from accept to close. It has a second to send its request, and another
to take the answer, so whoever is silent or drips costs one slot for a second. Where all slots are
taken, the answer is at once that the agent is overloaded.
"""

import contextlib
import dataclasses
import errno
import functools
import gc
import json
import math
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable

from eic_agent.errors import Reason
from eic_agent.journal.writer import Journal
from eic_agent.resident.connection import (
    FELL_BACK_PROTOCOL,
    STATUS_PROTOCOL,
    Connection,
    Reply,
    Standing,
    parse_request,
)
from eic_agent.resident.limits import DEFAULT_LIMITS, Counters, Handlers, Limits
from eic_agent.resident.listener import Listener
from eic_agent.resident.notify import Notifier
from eic_agent.resident.peers import Peers
from eic_agent.resident.pool import Asked, Outcome, Pool
from eic_agent.resident.pressure import Pressure
from eic_agent.resident.upkeep import Timer

_ACCEPT_AT_ONCE = 64  # connections accepted before requests are looked at again
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_REPORT_EVERY_S = 10.0
_PRESSED_AGAIN_S = 60.0  # pressure after this long is another one
_MEND_EVERY_S = 1.0


_OVERLOADED = Reply((f"{Reason.OVERLOADED.value}: too many lookups at once; try again",), False)


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
        self._load = load
        self._handlers = handlers
        self._journal = journal
        self._notifier = notifier
        self._limits = limits
        self._hand_over_accepted = hand_over
        self._pressure = pressure
        self._pressed_at = -math.inf
        self._counters = Counters()
        self._selector = selectors.DefaultSelector()
        self._held: set[Connection] = set()
        self._reading: dict[Connection, None] = {}  # in order of arrival
        self._woken, self._wake = socket.socketpair()
        self._pool = Pool(self._respond, limits.threads, self._wake)
        self._upkeep = Timer(self._wake)
        self._refusals = _Seldom()
        self._peers = Peers()
        self._retired: list[tuple[float, Callable[[], None]]] = []  # in order of when
        self._idle_since = self._alive_at = time.monotonic()
        self._leave_at: float | None = None  # set once no more is accepted
        self._mend_at = time.monotonic() + _MEND_EVERY_S  # when an invalid configuration is read

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or idle; SIGHUP reloads. Signals want the main thread."""
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_wake)
        self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ignore)  # what counts is the byte that it puts into the pipe
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            if self._pressure is not None:
                pressed = functools.partial(self._on_pressure, self._pressure)
                self._selector.register(self._pressure, selectors.EVENT_READ, pressed)
            if self._handlers.invalid:
                self._report_invalid()
            self._take_over()
            self._upkeep.take(self._handlers.upkeep)
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
        while self._reading and now >= self._oldest_reading() + self._limits.request_s:
            self._counters.unfinished += 1
            self._drop(next(iter(self._reading)))
        if self._notifier.alive_every_s is not None and now >= self._alive_at:
            self._alive_at = now + self._notifier.alive_every_s
            if not self._is_stuck(now):
                self._notifier.alive()
        if now >= self._upkeep_at():
            self._upkeep.run()
        while self._retired and now >= self._retired[0][0]:
            self._retired.pop(0)[1]()
        if self._leave_at is None and now >= self._idle_at():
            self._journal.info("idle: leaving until the next lookup")
            self._stop()

    def _patience_s(self) -> float | None:
        moments = [self._idle_at(), self._upkeep_at()]
        if self._reading:
            moments.append(self._oldest_reading() + self._limits.request_s)
        if self._notifier.alive_every_s is not None:
            moments.append(self._alive_at)
        if self._leave_at is not None:
            moments.append(self._leave_at)
        if self._retired:
            moments.append(self._retired[0][0])
        if (due_in := self._journal.due_in()) is not None:
            moments.append(time.monotonic() + due_in)
        earliest = min(moments)
        return None if earliest == math.inf else max(earliest - time.monotonic(), 0)

    def _oldest_reading(self) -> float:
        return next(iter(self._reading)).arrived

    def _idle_at(self) -> float:
        waits = self._held or self._leave_at is not None or not self._handlers.idle_exit_s
        return math.inf if waits else self._idle_since + self._handlers.idle_exit_s

    def _upkeep_at(self) -> float:
        """Lookups come first: what they fetch need not be fetched again."""
        return math.inf if self._held or self._leave_at is not None else self._upkeep.due_at

    def _is_stuck(self, now: float) -> bool:
        return any(now > connection.ends + self._limits.stuck_s for connection in self._held)

    def _is_over(self) -> bool:
        return self._leave_at is not None and (not self._held or time.monotonic() >= self._leave_at)

    # -- connections -----------------------------------------------------------------------------

    def _accept(self, at_most: int = _ACCEPT_AT_ONCE) -> None:
        for _ in range(at_most):
            try:
                accepted, _address = self._listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                time.sleep(0.05)  # what is being answered now gives some back
                return
            accepted.setblocking(False)
            self._admit(Connection(accepted, time.monotonic()))

    def _take_over(self) -> None:
        """Go on with who came while we were starting; their time counts from now."""
        for descriptor, accepted_at in self._hand_over_accepted():
            latest = accepted_at + self._handlers.start_s
            peer = socket.socket(fileno=descriptor)
            self._admit(Connection(peer, time.monotonic(), latest))

    def _admit(self, connection: Connection) -> None:
        self._counters.accepted += 1
        pid, uid = connection.peer
        connection.standing = self._peers.standing(connection.peer, self._handlers.clients)
        if connection.standing is Standing.REFUSED:
            self._counters.refused_peers += 1
            if count := self._refusals.due(connection.arrived):
                self._journal.info(
                    f"refused {count} connections of users that are not clients of the agent, "
                    f"the last by process {pid} of user id {uid}"
                )
            connection.socket.close()
            return
        connection.greet()
        if not self._has_room(connection.standing):
            connection.send(_OVERLOADED, within_s=0)
            connection.socket.close()
            self._count_overload()
            return
        self._held.add(connection)
        self._counters.most_connections = max(self._counters.most_connections, len(self._held))
        self._reading[connection] = None
        read = functools.partial(self._read, connection)
        self._selector.register(connection.socket, selectors.EVENT_READ, read)
        read()  # mostly it is all there

    def _has_room(self, standing: Standing) -> bool:
        """Say whether one more may be held; those who are not sshd's have their own, small room."""
        if len(self._held) >= self._limits.connections:
            return False
        alike = sum(held.standing is standing for held in self._held)
        if standing is Standing.OTHER:
            return alike < self._limits.others
        return standing is Standing.SSHD or alike < self._limits.connections // 2

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.receive()
            if data is None:
                return
            asked: Asked
            if data == FELL_BACK_PROTOCOL:
                self._counters.fallbacks += 1
                self._drop(connection)
                return
            self._mend()
            if data == STATUS_PROTOCOL:
                asked = self._count()
            else:
                asked = parse_request(
                    data,
                    connection.peer,
                    connection.arrived,
                    self._handlers.deadline_s,
                    connection.latest,
                )
                connection.ends = asked.ends
        except EOFError:
            self._counters.unfinished += 1
            self._drop(connection)
        except ValueError:
            self._counters.malformed += 1
            self._drop(connection)
        else:
            self._stop_reading(connection)
            self._hand_over(connection, asked)

    def _stop_reading(self, connection: Connection) -> None:
        if connection in self._reading:
            del self._reading[connection]
            self._selector.unregister(connection.socket)

    def _drop(self, connection: Connection) -> None:
        self._stop_reading(connection)
        connection.socket.close()
        self._held.discard(connection)
        self._idle_since = time.monotonic()

    def _count(self) -> Counters:
        return dataclasses.replace(
            self._counters, connections=len(self._held), threads=len(self._pool)
        )

    def _count_overload(self) -> None:
        self._counters.overloaded += 1
        self._journal.problem(Reason.OVERLOADED, f"{len(self._held)} lookups at once")

    # -- workers ---------------------------------------------------------------------------------

    def _hand_over(self, connection: Connection, asked: Asked) -> None:
        self._pool.put(connection, asked)
        self._staff()

    def _staff(self) -> None:
        self._pool.staff(len(self._held) - len(self._reading))

    def _respond(self, connection: Connection, asked: Asked) -> Outcome:
        handlers = self._handlers
        if isinstance(asked, Counters):
            reply, outcome = Reply((json.dumps(handlers.status(asked)),)), Outcome.STATUS
        elif time.monotonic() >= asked.ends:
            reply, outcome = _OVERLOADED, Outcome.OVERLOADED
        else:
            reply, outcome = handlers.answer(asked), Outcome.ANSWERED
        delivered = connection.send(reply, self._limits.answer_s)
        if reply.undelivered is not None and not delivered:
            reply.undelivered()
        return outcome

    def _settle(self) -> None:
        for connection, outcome in self._pool.settled():
            self._drop(connection)
            if outcome is Outcome.ANSWERED:
                self._counters.answered += 1
            elif outcome is Outcome.OVERLOADED:
                self._count_overload()
            elif outcome is Outcome.FAILED:
                self._counters.failed += 1
        self._staff()

    # -- signals and the end ---------------------------------------------------------------------

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            received = set(self._woken.recv(65536))
            self._settle()
            if received & {signal.SIGTERM, signal.SIGINT}:
                self._stop()
            elif signal.SIGHUP in received:
                self._reload()

    def _reload(self) -> None:
        self._notifier.reloading()
        self._counters.reloads += 1
        self._take(self._load())
        self._notifier.ready()

    def _take(self, handlers: Handlers) -> None:
        """Let these answer from now on, valid or not: what the files say is what holds."""
        before, self._handlers = self._handlers, handlers
        self._upkeep.take(handlers.upkeep)
        # What is being answered by the former handlers has ended by then.
        ends = time.monotonic() + before.deadline_s + self._limits.stuck_s
        self._retired.append((ends, before.close))
        self._mend_at = time.monotonic() + _MEND_EVERY_S
        if handlers.invalid:
            self._report_invalid()
        else:
            self._journal.info("the configuration was read again")

    def _report_invalid(self) -> None:
        problem = f"{self._handlers.invalid}\nuntil this is mended, no pushed key is granted"
        self._journal.problem(Reason.INVALID_CONFIG, problem, always=True)

    def _mend(self) -> None:
        """Read an invalid configuration again, now and then: nobody need reload what is mended."""
        if not self._handlers.invalid or time.monotonic() < self._mend_at:
            return
        self._mend_at = time.monotonic() + _MEND_EVERY_S
        handlers = self._load()
        if handlers.invalid != self._handlers.invalid:
            self._take(handlers)

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
        limits, handlers = self._limits, self._handlers
        longest_s = limits.request_s + handlers.deadline_s + limits.answer_s
        self._leave_at = time.monotonic() + longest_s
        self._listener.withdraw()
        self._accept(limits.connections)
        self._selector.unregister(self._listener.socket)

    def _close(self) -> None:
        self._listener.close()
        self._pool.close(0.1 if self._held else 1)
        for close in (*(close for _, close in self._retired), self._handlers.close):
            close()
        self._selector.close()
        if self._pressure is not None:
            self._pressure.close()
        self._woken.close()
        self._wake.close()


class _Seldom:
    """Decides when something that happens often is reported."""

    def __init__(self) -> None:
        self._next_at = -math.inf
        self._unreported = 0

    def due(self, now: float) -> int:
        """Count one; give how many to report now, 0 for none."""
        self._unreported += 1
        if now < self._next_at:
            return 0
        self._next_at = now + _REPORT_EVERY_S
        count, self._unreported = self._unreported, 0
        return count


def _ignore(_number: int, _frame: object) -> None:
    pass

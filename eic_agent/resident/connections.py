"""All connections, from accept to close: who may ask, how much at a time, who answers.

A connection holds one slot from accept to close. It has a second to send its request, and another
to take the answer, so whoever is silent or drips costs one slot for a second. Where all slots are
taken, the answer is at once that the agent is overloaded.

The loop accepts, checks peers and reads requests; worker threads run `_respond` and nothing else.
"""

import dataclasses
import errno
import functools
import json
import math
import selectors
import socket
import time
from collections.abc import Iterable

from eic_agent.errors import Reason
from eic_agent.journal.writer import Journal
from eic_agent.resident.active import ActiveConfiguration
from eic_agent.resident.connection import (
    FELL_BACK_PROTOCOL,
    STATUS_PROTOCOL,
    Connection,
    Reply,
    Standing,
    parse_request,
)
from eic_agent.resident.limits import Counters, Limits
from eic_agent.resident.peers import Peers
from eic_agent.resident.pool import Asked, Outcome, Pool

_ACCEPT_AT_ONCE = 64  # connections accepted before requests are looked at again
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_REPORT_EVERY_S = 10.0


_OVERLOADED = Reply((f"{Reason.OVERLOADED.value}: too many lookups at once; try again",), False)


class Connections:
    """Takes connections on, has their requests answered and lets go of them."""

    def __init__(
        self,
        active: ActiveConfiguration,
        journal: Journal,
        limits: Limits,
        selector: selectors.BaseSelector,
        wake: socket.socket,
    ) -> None:
        """Read as `selector` tells; a byte into `wake` tells that `settle` has work."""
        self._active = active
        self._journal = journal
        self._limits = limits
        self._selector = selector
        self._held: set[Connection] = set()
        self._reading: dict[Connection, None] = {}  # in order of arrival
        self._pool = Pool(self._respond, limits.threads, wake)
        self._refusals = _Seldom()
        self._peers = Peers()
        self.counters = Counters()
        self.idle_since = time.monotonic()  # while none is held

    def __len__(self) -> int:
        """Give the number of connections that are held."""
        return len(self._held)

    # -- admission -------------------------------------------------------------------------------

    def accept(self, listening: socket.socket, at_most: int = _ACCEPT_AT_ONCE) -> None:
        """Take on who has connected to a socket."""
        for _ in range(at_most):
            try:
                accepted, _address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                time.sleep(0.05)  # what is being answered now gives some back
                return
            accepted.setblocking(False)
            self._admit(Connection(accepted, time.monotonic()))

    def take_over(self, accepted: Iterable[tuple[int, float]]) -> None:
        """Go on with who came while we were starting; their time counts from now.

        They are given as descriptors, and when each was accepted on the monotonic clock.
        """
        for descriptor, accepted_at in accepted:
            latest = accepted_at + self._active.handlers.start_s
            peer = socket.socket(fileno=descriptor)
            self._admit(Connection(peer, time.monotonic(), latest))

    def _admit(self, connection: Connection) -> None:
        self.counters.accepted += 1
        pid, uid = connection.peer
        clients = self._active.handlers.clients
        connection.standing = self._peers.standing(connection.peer, clients)
        if connection.standing is Standing.REFUSED:
            self.counters.refused_peers += 1
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
        self.counters.most_connections = max(self.counters.most_connections, len(self._held))
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

    # -- requests --------------------------------------------------------------------------------

    @property
    def reading_ends_at(self) -> float:
        """When the oldest request must be whole, on the monotonic clock; infinity: never."""
        if not self._reading:
            return math.inf
        return next(iter(self._reading)).arrived + self._limits.request_s

    def drop_unfinished(self, now: float) -> None:
        """Drop those who have not sent their request in time."""
        while now >= self.reading_ends_at:
            self.counters.unfinished += 1
            self._drop(next(iter(self._reading)))

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.receive()
            if data is None:
                return
            asked: Asked
            if data == FELL_BACK_PROTOCOL:
                self.counters.fallbacks += 1
                self._drop(connection)
                return
            self._active.mend()
            if data == STATUS_PROTOCOL:
                asked = self._count()
            else:
                asked = parse_request(
                    data,
                    connection.peer,
                    connection.arrived,
                    self._active.handlers.deadline_s,
                    connection.latest,
                )
                connection.ends = asked.ends
        except EOFError:
            self.counters.unfinished += 1
            self._drop(connection)
        except ValueError:
            self.counters.malformed += 1
            self._drop(connection)
        else:
            self._stop_reading(connection)
            self._pool.put(connection, asked)
            self._staff()

    def _stop_reading(self, connection: Connection) -> None:
        if connection in self._reading:
            del self._reading[connection]
            self._selector.unregister(connection.socket)

    def _drop(self, connection: Connection) -> None:
        self._stop_reading(connection)
        connection.socket.close()
        self._held.discard(connection)
        self.idle_since = time.monotonic()

    def _count(self) -> Counters:
        return dataclasses.replace(
            self.counters, connections=len(self._held), threads=len(self._pool)
        )

    def _count_overload(self) -> None:
        self.counters.overloaded += 1
        self._journal.problem(Reason.OVERLOADED, f"{len(self._held)} lookups at once")

    # -- answers ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let go of those whom workers have done with."""
        for connection, outcome in self._pool.settled():
            self._drop(connection)
            if outcome is Outcome.ANSWERED:
                self.counters.answered += 1
            elif outcome is Outcome.OVERLOADED:
                self._count_overload()
            elif outcome is Outcome.FAILED:
                self.counters.failed += 1
        self._staff()

    def is_stuck(self, now: float) -> bool:
        """Say whether an answer is so late that the watchdog should bite."""
        return any(now > connection.ends + self._limits.stuck_s for connection in self._held)

    def close(self) -> None:
        """Let the workers end; who is being answered still is not waited for long."""
        self._pool.close(0.1 if self._held else 1)

    def _staff(self) -> None:
        self._pool.staff(len(self._held) - len(self._reading))

    def _respond(self, connection: Connection, asked: Asked) -> Outcome:
        handlers = self._active.handlers
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

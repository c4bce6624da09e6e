"""What the service takes on at a time, what it counts, and whom it asks for answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from eic_agent.resident.connection import Reply, Request


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the service takes on at a time."""

    threads: int = 32
    connections: int = 512
    others: int = 8  # connections of a client's user that are not sshd's: not all threads
    request_s: float = 1.0  # for the peer to send its request
    answer_s: float = 1.0  # for the peer to take the answer
    stuck_s: float = 10.0  # a lookup this far past its end means that the watchdog should bite


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class Counters:
    """What happened since the start; `connections` and `threads` are those of now."""

    accepted: int = 0
    answered: int = 0
    refused_peers: int = 0
    malformed: int = 0  # requests that are none
    unfinished: int = 0  # requests that did not come whole, in a second
    overloaded: int = 0
    fallbacks: int = 0  # lookups that clients told us they made without us
    failed: int = 0  # lookups that ended in an error of the agent's own
    reloads: int = 0
    connections: int = 0
    most_connections: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the service does with requests; made anew at each reload."""

    answer: Callable[[Request], Reply]  # called in worker threads, to return by the request's end
    status: Callable[[Counters], Mapping[str, object]]  # what JSON can say
    clients: frozenset[int]  # user ids answered besides root's and the agent's own
    deadline_s: float  # most that a lookup may take
    idle_exit_s: float  # 0: never
    start_s: float = 30.0  # most that a lookup may take which met the agent's start
    close: Callable[[], None] = lambda: None  # lets go of what they hold, once none is answered
    invalid: str = ""  # what is wrong with the configuration, if these can but say so
    # Called in a thread of its own while nobody asks; gives the seconds until it is due again.
    upkeep: Callable[[], float] | None = None

"""Shared calls: many who ask at once are answered by few calls, and nobody by a stale one."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any, Generic, Protocol, TypeVar

from eic_agent.errors import MetadataUnavailable

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


class Workers(Protocol):
    """What runs calls, as an executor of concurrent.futures does."""

    def submit(self, run: Callable[[Any], None], flight: Any, /) -> object:
        """Run this soon, in another thread. Raises RuntimeError where none can be had."""


class Daemons:
    """Runs each call in a thread of its own, which no process waits for when it ends."""

    def submit(self, run: Callable[[Any], None], flight: Any, /) -> None:
        """Run this now."""
        threading.Thread(target=run, args=(flight,), daemon=True).start()


class _Flight(Generic[_K, _T]):
    """One call for a key, from the first who gathers for it to its result."""

    def __init__(self, key: _K) -> None:
        self.key = key
        self.result: Future[_T] = Future()


class Flights(Generic[_K, _T]):
    """Lets callers share the result of a call that leaves after all of them have arrived.

    For each key at most one call is in flight and one is gathering. Who arrives before a call
    leaves shares its result; who arrives after it left waits for the next, since what it needs may
    have come into being in between. A worker runs the call, which is bounded by itself; each
    caller leaves at its own deadline and takes nobody with it.
    """

    def __init__(self, workers: Workers, call: Callable[[_K], _T], about: str) -> None:
        """`call` gets the key; `about` says for people what it asks for, `{}` being the key."""
        self._workers = workers
        self._call = call
        self._about = about
        self._lock = threading.Lock()
        self._gathering: dict[_K, _Flight[_K, _T]] = {}
        self._under_way: set[_K] = set()

    def get(self, key: _K, timeout_s: float) -> _T:
        """Give the result of a call that leaves from now on, or raise what it raises.

        Raises MetadataUnavailable after `timeout_s`, while the call goes on for the others, and
        where no thread can be had that makes it.
        """
        with self._lock:
            flight = self._gathering.get(key)
            if flight is None:
                flight = self._gathering[key] = _Flight(key)
            if key not in self._under_way:
                self._launch(flight)
        if not wait([flight.result], timeout_s).done:
            about = self._about.format(key)
            raise MetadataUnavailable(f"no answer about {about} within the lookup's deadline")
        return flight.result.result()

    def _launch(self, flight: _Flight[_K, _T]) -> None:
        """Have a worker make the call; the lock is held. The key is free again if none can."""
        self._under_way.add(flight.key)
        try:
            self._workers.submit(self._fly, flight)
        except RuntimeError as error:  # no thread can start, or the workers have been shut down
            self._under_way.discard(flight.key)
            del self._gathering[flight.key]
            about = self._about.format(flight.key)
            flight.result.set_exception(
                MetadataUnavailable(f"nobody is free to ask about {about}: {error}")
            )

    def _fly(self, flight: _Flight[_K, _T]) -> None:
        key = flight.key
        with self._lock:
            # An executor that could start no thread has kept the call, and may make it yet.
            if self._gathering.get(key) is not flight:
                return
            del self._gathering[key]
        try:
            value = self._call(key)
        except BaseException as error:  # noqa: BLE001 - not swallowed: every caller raises it
            flight.result.set_exception(error)
        else:
            flight.result.set_result(value)
        with self._lock:
            self._under_way.discard(key)
            following = self._gathering.get(key)
            if following is not None:
                self._launch(following)

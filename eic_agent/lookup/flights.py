"""Shared calls: many who ask at once are answered by few calls, and nobody by a stale one."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Generic, Protocol, TypeVar

from eic_agent.errors import MetadataUnavailable

_T = TypeVar("_T")


class Workers(Protocol):
    """What runs calls, as an executor of concurrent.futures does."""

    def submit(self, run: Callable[[Hashable], None], key: Hashable, /) -> object:
        """Run this soon, in another thread."""


class Daemons:
    """Runs each call in a thread of its own, which no process waits for when it ends."""

    def submit(self, run: Callable[[Hashable], None], key: Hashable, /) -> None:
        """Run this now."""
        threading.Thread(target=run, args=(key,), daemon=True).start()


class Flights(Generic[_T]):
    """Lets callers share the result of a call that leaves after all of them have arrived.

    For each key at most one call is in flight and one is gathering. Who arrives before a call
    leaves shares its result; who arrives after it left waits for the next, since what it needs may
    have come into being in between. A worker runs the call, which is bounded by itself; each
    caller leaves at its own deadline and takes nobody with it.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self._gathering: dict[Hashable, tuple[Callable[[], _T], Future[_T]]] = {}
        self._under_way: set[Hashable] = set()

    def get(self, key: Hashable, call: Callable[[], _T], timeout_s: float) -> _T:
        """Give the result of a call that leaves from now on, or raise what it raises.

        Raises MetadataUnavailable after `timeout_s`; the call goes on for the others.
        """
        with self._lock:
            if key not in self._gathering:
                self._gathering[key] = (call, Future())
            result = self._gathering[key][1]
            if key not in self._under_way:
                self._under_way.add(key)
                self._workers.submit(self._fly, key)
        if not wait([result], timeout_s).done:
            raise MetadataUnavailable(f"no answer about {key} within the lookup's deadline")
        return result.result()

    def _fly(self, key: Hashable) -> None:
        with self._lock:
            call, result = self._gathering.pop(key)
        try:
            value = call()
        except Exception as error:  # noqa: BLE001 - not swallowed: every caller raises it
            result.set_exception(error)
        else:
            result.set_result(value)
        with self._lock:
            if key in self._gathering:
                self._workers.submit(self._fly, key)
            else:
                self._under_way.discard(key)

"""Shared calls: freshness for each caller, few calls for many, nobody stranded."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from eic_agent.errors import MetadataUnavailable
from eic_agent.lookup.flights import Daemons, Flights, Workers


@pytest.fixture
def workers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Gate:
    """A slow call: says when it began, and returns its number when it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)

    def __call__(self) -> int:
        with self._lock:
            self.calls += 1
            number = self.calls
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.begun.release()
        assert self.let_go.acquire(timeout=30)
        with self._lock:
            self._at_once -= 1
        return number


def shared(workers: Workers, gate: Gate) -> Flights[str, int]:
    return Flights(workers, lambda _: gate(), "what {} knows")


def ask(flights: Flights[str, int], timeout_s: float = 30, key: str = "k") -> Future[int]:
    """Ask in a thread of its own, and return once the question has arrived."""
    result: Future[int] = Future()

    def run() -> None:
        try:
            result.set_result(flights.get(key, timeout_s))
        except MetadataUnavailable as error:
            result.set_exception(error)

    threading.Thread(target=run).start()
    return result


def arrived(flights: Flights[str, int], key: str = "k") -> None:
    """Wait until somebody gathers for the next flight."""
    end = time.monotonic() + 30
    while key not in flights._gathering and time.monotonic() < end:
        time.sleep(0.001)
    assert key in flights._gathering


def test_who_arrives_after_a_call_left_waits_for_the_next(workers: ThreadPoolExecutor) -> None:
    gate = Gate()
    flights = shared(workers, gate)
    first = ask(flights)
    assert gate.begun.acquire(timeout=30)
    second = ask(flights)
    arrived(flights)
    gate.let_go.release()
    assert first.result(30) == 1
    assert gate.begun.acquire(timeout=30)
    gate.let_go.release()
    assert second.result(30) == 2


def test_all_who_arrive_while_a_call_flies_share_the_next_one(workers: ThreadPoolExecutor) -> None:
    gate = Gate()
    flights = shared(workers, gate)
    first = ask(flights)
    assert gate.begun.acquire(timeout=30)
    others = [ask(flights) for _ in range(20)]
    arrived(flights)
    time.sleep(0.1)  # the rest of the threads join; one that comes later makes a third call
    gate.let_go.release(len(others) + 1)
    assert first.result(30) == 1
    assert {other.result(30) for other in others} <= set(range(2, gate.calls + 1))
    assert gate.calls < 10
    assert gate.most_at_once == 1


def test_other_keys_fly_beside(workers: ThreadPoolExecutor) -> None:
    gate = Gate()
    flights = shared(workers, gate)
    one, other = ask(flights, key="a"), ask(flights, key="b")
    assert gate.begun.acquire(timeout=30)
    assert gate.begun.acquire(timeout=30)
    gate.let_go.release(2)
    assert {one.result(30), other.result(30)} == {1, 2}


def test_who_leaves_at_its_deadline_takes_nobody_with_it(workers: ThreadPoolExecutor) -> None:
    gate = Gate()
    flights = shared(workers, gate)
    patient = ask(flights)
    assert gate.begun.acquire(timeout=30)
    with pytest.raises(MetadataUnavailable, match="deadline"):
        flights.get("k", 0.01)
    still_patient = ask(flights)
    gate.let_go.release(2)
    assert patient.result(30) == 1
    assert still_patient.result(30) == 2


def test_everybody_gets_the_error_and_the_next_call_is_a_new_one(
    workers: ThreadPoolExecutor,
) -> None:
    downs = iter([True, False])

    def call() -> int:
        if next(downs):
            raise MetadataUnavailable("down")
        return 7

    flights = Flights[str, int](workers, lambda _: call(), "{}")
    with pytest.raises(MetadataUnavailable, match="down"):
        flights.get("k", 30)
    assert flights.get("k", 30) == 7


def test_a_call_run_by_daemons_is_answered_by_a_thread_that_no_process_waits_for() -> None:
    flights = Flights[str, bool](Daemons(), lambda _: threading.current_thread().daemon, "{}")
    assert flights.get("k", 30)


def test_who_leaves_is_told_what_it_asked_for(
    workers: ThreadPoolExecutor,
) -> None:
    gate = Gate()
    flights = shared(workers, gate)
    with pytest.raises(MetadataUnavailable, match="no answer about what alice knows"):
        flights.get("alice", 0.01)
    gate.let_go.release()


def test_a_call_that_ends_its_thread_leaves_the_key_free() -> None:
    """Whatever is raised: a key that stays taken would never be answered again."""
    ends = iter([SystemExit("the end"), None])

    def call(_: str) -> int:
        end = next(ends)
        if end is not None:
            raise end
        return 7

    flights = Flights[str, int](Daemons(), call, "{}")
    with pytest.raises(SystemExit, match="the end"):
        flights.get("k", 5)
    assert flights.get("k", 30) == 7


class NoThreads:
    """As an executor when threads are exhausted: it raises, and yet makes the call later on."""

    def __init__(self) -> None:
        self.exhausted = True
        self.kept: list[tuple[Callable[[Any], None], Any]] = []

    def submit(self, run: Callable[[Any], None], flight: Any, /) -> None:
        if self.exhausted:
            self.kept.append((run, flight))
            raise RuntimeError("can't start new thread")
        Daemons().submit(run, flight)

    def make_kept_calls(self) -> None:
        for run, flight in self.kept:
            run(flight)


def test_a_thread_that_cannot_start_leaves_the_key_free() -> None:
    workers, gate = NoThreads(), Gate()
    flights = shared(workers, gate)
    with pytest.raises(MetadataUnavailable, match="what alice knows: can't start new thread"):
        flights.get("alice", 5)
    workers.exhausted = False
    gate.let_go.release()
    assert flights.get("alice", 30) == 1
    workers.make_kept_calls()  # they find nobody who waits
    assert gate.calls == 1


def test_who_gathered_is_told_where_the_next_call_cannot_start() -> None:
    workers, gate = NoThreads(), Gate()
    workers.exhausted = False
    flights = shared(workers, gate)
    first = ask(flights)
    assert gate.begun.acquire(timeout=30)
    second = ask(flights)
    arrived(flights)
    workers.exhausted = True
    gate.let_go.release()
    assert first.result(30) == 1
    with pytest.raises(MetadataUnavailable, match="can't start new thread"):
        second.result(30)

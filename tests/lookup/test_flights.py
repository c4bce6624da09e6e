"""Shared calls: freshness for each caller, few calls for many, nobody stranded."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from eic_agent.errors import MetadataUnavailable
from eic_agent.lookup.flights import Daemons, Flights


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


def ask(flights: Flights[int], gate: Gate, timeout_s: float = 30, key: str = "k") -> Future[int]:
    """Ask in a thread of its own, and return once the question has arrived."""
    result: Future[int] = Future()

    def run() -> None:
        try:
            result.set_result(flights.get(key, gate, timeout_s))
        except MetadataUnavailable as error:
            result.set_exception(error)

    threading.Thread(target=run).start()
    return result


def arrived(flights: Flights[int], key: str = "k") -> None:
    """Wait until somebody gathers for the next flight."""
    end = time.monotonic() + 30
    while key not in flights._gathering and time.monotonic() < end:
        time.sleep(0.001)
    assert key in flights._gathering


def test_who_arrives_after_a_call_left_waits_for_the_next(workers: ThreadPoolExecutor) -> None:
    flights, gate = Flights[int](workers), Gate()
    first = ask(flights, gate)
    assert gate.begun.acquire(timeout=30)
    second = ask(flights, gate)
    arrived(flights)
    gate.let_go.release()
    assert first.result(30) == 1
    assert gate.begun.acquire(timeout=30)
    gate.let_go.release()
    assert second.result(30) == 2


def test_all_who_arrive_while_a_call_flies_share_the_next_one(workers: ThreadPoolExecutor) -> None:
    flights, gate = Flights[int](workers), Gate()
    first = ask(flights, gate)
    assert gate.begun.acquire(timeout=30)
    others = [ask(flights, gate) for _ in range(20)]
    arrived(flights)
    time.sleep(0.1)  # the rest of the threads join; one that comes later makes a third call
    gate.let_go.release(len(others) + 1)
    assert first.result(30) == 1
    assert {other.result(30) for other in others} <= set(range(2, gate.calls + 1))
    assert gate.calls < 10
    assert gate.most_at_once == 1


def test_other_keys_fly_beside(workers: ThreadPoolExecutor) -> None:
    flights, gate = Flights[int](workers), Gate()
    one, other = ask(flights, gate, key="a"), ask(flights, gate, key="b")
    assert gate.begun.acquire(timeout=30)
    assert gate.begun.acquire(timeout=30)
    gate.let_go.release(2)
    assert {one.result(30), other.result(30)} == {1, 2}


def test_who_leaves_at_its_deadline_takes_nobody_with_it(workers: ThreadPoolExecutor) -> None:
    flights, gate = Flights[int](workers), Gate()
    patient = ask(flights, gate)
    assert gate.begun.acquire(timeout=30)
    with pytest.raises(MetadataUnavailable, match="deadline"):
        flights.get("k", gate, 0.01)
    still_patient = ask(flights, gate)
    gate.let_go.release(2)
    assert patient.result(30) == 1
    assert still_patient.result(30) == 2


def test_everybody_gets_the_error_and_the_next_call_is_a_new_one(
    workers: ThreadPoolExecutor,
) -> None:
    flights = Flights[int](workers)
    downs = iter([True, False])

    def call() -> int:
        if next(downs):
            raise MetadataUnavailable("down")
        return 7

    with pytest.raises(MetadataUnavailable, match="down"):
        flights.get("k", call, 30)
    assert flights.get("k", call, 30) == 7


def test_a_call_run_by_daemons_is_answered_by_a_thread_that_no_process_waits_for() -> None:
    flights = Flights[bool](Daemons())
    assert flights.get("k", lambda: threading.current_thread().daemon, 30)

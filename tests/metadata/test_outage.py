"""Failing fast while the service is out of reach, and noticing that it is back."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from eic_agent.errors import (
    MetadataUnavailable,
    MetadataUnreachable,
)
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import NEVER, Deadline
from eic_agent.metadata.outage import Outage
from eic_sandbox.simulator import MetadataSimulator, faults
from tests.metadata.service import (
    PLENTY_S,
    REGION,
    MakeClient,
    held_back,
    plenty,
)


class TestOutage:
    @pytest.fixture(name="uptime")
    def monotonic_clock(self) -> list[float]:
        return [1000.0]

    @pytest.fixture(name="outage")
    def with_a_clock_of_its_own(self, uptime: list[float]) -> Outage:
        return Outage(1.0, lambda: uptime[0])

    @contextlib.contextmanager
    def failing(
        self,
        outage: Outage,
        error: type[MetadataUnavailable] = MetadataUnreachable,
        deadline: Deadline = NEVER,
    ) -> Iterator[None]:
        with pytest.raises(error, match="in vain"), outage.attempt(deadline):  # noqa: PT012 - a frame
            yield
            raise error("in vain")

    def fail(
        self,
        outage: Outage,
        uptime: list[float],
        took_s: float = 0.0,
        deadline: Deadline = NEVER,
    ) -> None:
        with self.failing(outage, deadline=deadline):
            uptime[0] += took_s

    def assert_closed(self, outage: Outage) -> None:
        with (
            pytest.raises(MetadataUnavailable, match="not asked again yet"),
            outage.attempt(plenty()),
        ):
            pytest.fail("let through")

    def assert_open_to_all(self, outage: Outage) -> None:
        with outage.attempt(plenty()), outage.attempt(plenty()), outage.attempt(plenty()):
            pass

    def test_without_a_failure_calls_run_side_by_side(self, outage: Outage) -> None:
        self.assert_open_to_all(outage)

    def test_a_failure_is_followed_by_a_pause_and_then_by_one_probe_at_a_time(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        for took_s in (4.0, 0.7, 4.0):
            self.fail(outage, uptime, took_s)
            self.assert_closed(outage)
            uptime[0] += 0.9
            self.assert_closed(outage)
            uptime[0] += 0.2
        with outage.attempt(plenty()):
            self.assert_closed(outage)
            self.assert_closed(outage)
        self.assert_open_to_all(outage)

    def test_it_is_forgotten_when_nobody_has_asked_for_a_while(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        self.fail(outage, uptime, 4.0)
        uptime[0] += 5.0
        self.assert_open_to_all(outage)
        self.fail(outage, uptime, 4.0)
        self.assert_closed(outage)

    def test_any_answer_ends_it(self, outage: Outage, uptime: list[float]) -> None:
        self.fail(outage, uptime)
        uptime[0] += 1.0
        with self.failing(outage, MetadataUnavailable):
            self.assert_closed(outage)
        self.assert_open_to_all(outage)

    def test_an_odd_answer_does_not_begin_it(self, outage: Outage) -> None:
        for _ in range(3):
            with self.failing(outage, MetadataUnavailable):
                pass
        self.assert_open_to_all(outage)

    def test_a_caller_who_was_in_a_hurry_tells_nothing(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        self.fail(outage, uptime, 0.5, Deadline.after(0))
        self.assert_open_to_all(outage)
        self.fail(outage, uptime)
        uptime[0] += 1.0
        with pytest.raises(MetadataUnavailable), outage.attempt(Deadline.after(0)):
            raise MetadataUnavailable("no token before the deadline")
        with outage.attempt(plenty()):
            self.assert_closed(outage)

    def test_a_caller_who_waited_to_his_deadline_tells_of_it(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        self.fail(outage, uptime, 4.0, Deadline.after(0))
        self.assert_closed(outage)

    def test_a_failure_overtaken_by_an_answer_does_not_begin_it(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        with self.failing(outage):
            uptime[0] += 0.5
            with outage.attempt(plenty()):
                pass
            uptime[0] += 0.5
        self.assert_open_to_all(outage)

    def test_a_probe_that_ends_in_a_bug_is_over_all_the_same(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        self.fail(outage, uptime)
        uptime[0] += 1.0
        with pytest.raises(ZeroDivisionError), outage.attempt(plenty()):
            raise ZeroDivisionError
        with outage.attempt(plenty()):
            pass

    def test_while_a_probe_waits_for_the_service_other_calls_fail_at_once(
        self, sim: MetadataSimulator, url: str, make: MakeClient, uptime: list[float]
    ) -> None:
        client = make(url, monotonic=lambda: uptime[0])
        arrived, let_go = threading.Event(), threading.Event()
        sim.faults[REGION] = faults.status(503)
        with pytest.raises(MetadataUnreachable):
            client.region(plenty())
        asked = sim.requests.total()
        with pytest.raises(MetadataUnavailable, match="not asked again yet"):
            client.domain(plenty())
        assert sim.requests.total() == asked
        uptime[0] += 1.0
        sim.faults[REGION] = held_back(let_go, arrived)
        with ThreadPoolExecutor(1) as threads:
            probe = threads.submit(client.region, plenty())
            assert arrived.wait(PLENTY_S)
            with pytest.raises(MetadataUnavailable, match="not asked again yet"):
                client.domain(plenty())
            let_go.set()
            assert probe.result(PLENTY_S) == "us-east-1"
        assert client.domain(plenty()) == "amazonaws.com"

    def test_a_crowd_meets_an_outage_with_few_requests(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        """Link-local packets are counted, and DNS and the clock need theirs too."""
        client = make(url)
        client.region(plenty())
        sim.faults["*"] = faults.status(503)
        with ThreadPoolExecutor(16) as threads:
            calls = [threads.submit(client.region, plenty()) for _ in range(2000)]
        assert all(isinstance(call.exception(), MetadataUnavailable) for call in calls)
        # Those of the first moment, six times each, and the probes of a slow machine.
        assert sim.requests[REGION] <= 16 * 6 + 50

    def test_missing_keys_and_refused_tokens_are_no_outage(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[REGION] = faults.status(401)
        for _ in range(3):
            assert client.active_keys("alice", plenty()) is None
            with pytest.raises(MetadataUnavailable, match="answered 401"):
                client.region(plenty())
        del sim.faults[REGION]
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(lambda _: client.region(plenty()), range(20))) == {"us-east-1"}

"""The token: one for everybody, renewed in time and when it is refused."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from eic_agent.errors import MetadataUnavailable
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import TOKEN_PATH
from tests.metadata.service import PLENTY_S, REGION, MakeClient, held_back, plenty


class TestToken:
    def test_one_token_serves_until_shortly_before_it_expires(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        uptime = [1000.0]
        client = make(url, monotonic=lambda: uptime[0])
        client.region(plenty())
        uptime[0] += 21600 - 61
        client.region(plenty())
        assert sim.requests[TOKEN_PATH] == 1
        assert sim.log[0].headers["x-aws-ec2-metadata-token-ttl-seconds"] == "21600"
        uptime[0] += 2
        client.region(plenty())
        assert sim.requests[TOKEN_PATH] == 2

    def test_a_token_refused_is_renewed_once(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.region(plenty())
        sim.revoke_tokens()
        assert client.region(plenty()) == "us-east-1"
        assert (sim.requests[TOKEN_PATH], sim.requests[REGION]) == (2, 3)

    def test_a_late_refusal_of_an_old_token_does_not_cost_the_new_one(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        refused, renewed = threading.Event(), threading.Event()

        client.domain(plenty())
        sim.revoke_tokens()
        sim.faults[REGION] = faults.times(1, held_back(renewed, refused))
        with ThreadPoolExecutor(1) as threads:
            late = threads.submit(client.region, plenty())
            assert refused.wait(PLENTY_S)
            assert client.domain(plenty()) == "amazonaws.com"
            renewed.set()
            assert late.result(PLENTY_S) == "us-east-1"
        assert sim.requests[TOKEN_PATH] == 2

    def test_a_second_refusal_is_final(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[REGION] = faults.status(401)
        with pytest.raises(MetadataUnavailable, match="answered 401"):
            client.region(plenty())
        assert (sim.requests[TOKEN_PATH], sim.requests[REGION]) == (2, 2)

    def test_without_a_token_nothing_is_asked(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.token_required = False
        for code in (403, 404, 405, 500):
            sim.faults[TOKEN_PATH] = faults.status(code)
            with pytest.raises(MetadataUnavailable, match=f"PUT .*/token: answered {code}"):
                client.region(plenty())
        assert set(sim.requests) == {TOKEN_PATH}

    @pytest.mark.parametrize("token", [b"", b"a\r\nX-Evil: 1", b"a\x00", b"\xff", b"a" * 1025])
    def test_a_token_that_is_no_text_is_not_used(
        self, token: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[TOKEN_PATH] = faults.status(200, token)
        with pytest.raises(MetadataUnavailable, match="token"):
            client.region(plenty())
        assert set(sim.requests) == {TOKEN_PATH}

    def test_threads_that_need_a_token_share_one_request_for_it(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.latency_s = 0.2
        with ThreadPoolExecutor(10) as threads:
            regions = list(threads.map(lambda _: client.region(plenty()), range(10)))
        assert regions == ["us-east-1"] * 10
        assert sim.requests[TOKEN_PATH] == 1
        sim.revoke_tokens()
        with ThreadPoolExecutor(10) as threads:
            regions = list(threads.map(lambda _: client.region(plenty()), range(10)))
        assert regions == ["us-east-1"] * 10
        assert sim.requests[TOKEN_PATH] == 2

    def test_who_leaves_at_a_deadline_leaves_the_token_to_the_others(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        let_go = threading.Event()
        sim.faults[TOKEN_PATH] = held_back(let_go)
        with ThreadPoolExecutor(1) as threads:
            with pytest.raises(MetadataUnavailable, match="no token before the deadline"):
                client.region(Deadline.after(0.05))
            patient = threads.submit(client.region, plenty())
            with pytest.raises(MetadataUnavailable, match="no token before the deadline"):
                client.region(Deadline.after(0.05))
            let_go.set()
            assert patient.result(PLENTY_S) == "us-east-1"
        assert sim.requests[TOKEN_PATH] == 1

    def test_threads_share_the_failure_to_get_a_token(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        waiting = threading.Semaphore(0)

        class WatchedDeadline(Deadline):
            def remaining(self) -> float:
                waiting.release()
                return super().remaining()

        def refused_when_all_wait(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            for _ in range(4):
                waiting.acquire(timeout=PLENTY_S)
            answer.status, answer.body = 403, b""
            yield answer.raw()

        sim.faults[TOKEN_PATH] = refused_when_all_wait
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(client.region, WatchedDeadline(plenty().at)) for _ in range(4)]
            for call in calls:
                with pytest.raises(MetadataUnavailable, match="answered 403"):
                    call.result(PLENTY_S)
        assert sim.requests == {TOKEN_PATH: 1}

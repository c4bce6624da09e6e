"""No answer takes longer than its time or more than its room."""

import gzip
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import ACTIVE_KEYS, SIGNER_CERT, SIGNER_OCSP, TOKEN_PATH
from tests.metadata.service import (
    INSTANCE_ID,
    REGION,
    Ask,
    MakeClient,
    endless,
    never_accepting,
    plenty,
)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class TestDeadlines:
    """Each service here would need minutes, or for ever, to answer."""

    @pytest.mark.parametrize(
        "fault",
        [
            faults.silence(),
            faults.drip_headers(1.0),
            faults.drip_body(20.0),
            faults.delay(300.0),
            endless(CHUNKED, b"1\r\na\r\n", 0.1),
            endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
            endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", 0.1),
            endless(b"HTTP/1.1 200 OK\r\n\r\n", b"a", 0.1),
        ],
    )
    def test_a_request_takes_no_longer_than_its_time(
        self, fault: faults.Fault, sim: MetadataSimulator, ask: Ask
    ) -> None:
        ask(INSTANCE_ID)
        sim.faults[REGION] = fault
        with pytest.raises(MetadataUnreachable, match=f"{REGION}: out of time after 0.7 s, with"):
            ask(REGION, 0.7)

    def test_a_lookups_deadline_cuts_a_request_short(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.domain(plenty())
        for path in (REGION, TOKEN_PATH):
            sim.faults[path] = faults.silence()
            sim.revoke_tokens()
            with pytest.raises(MetadataUnavailable, match=r"out of time|before the deadline"):
                client.region(Deadline.after(0.3))

    def test_a_token_takes_no_longer_than_its_time(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        sim.faults[TOKEN_PATH] = faults.silence()
        with pytest.raises(MetadataUnreachable, match=r"token: out of time after 0.2 s"):
            make(url, timeout_s=0.2).region(plenty())

    def test_connecting_is_bounded_too(self, make: MakeClient) -> None:
        with never_accepting() as url:
            client = make(url, timeout_s=0.3)
            with pytest.raises(MetadataUnreachable, match=r"after 0.3 s, not connected"):
                client.region(plenty())
            assert client.requests_sent == 0

    def test_a_deadline_that_is_over_sends_nothing(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.region(plenty())
        with pytest.raises(MetadataUnavailable, match="no time left"):
            client.region(Deadline.after(0))
        assert sim.requests[REGION] == 1


class TestCaps:
    @pytest.mark.parametrize(
        ("path", "cap"),
        [
            (TOKEN_PATH, 1024),
            (INSTANCE_ID, 1024),
            (ACTIVE_KEYS + "alice/", 1 << 18),
            (SIGNER_CERT, 1 << 16),
            (SIGNER_OCSP, 1 << 16),
            (SIGNER_OCSP + "A", 1 << 16),
        ],
    )
    @pytest.mark.parametrize("how", ["declared", "undeclared", "compressed"])
    def test_a_document_over_its_cap_is_refused(
        self, how: str, path: str, cap: int, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[path] = b"A"
        sim.faults[path] = (
            faults.compressed(b"A" * (cap + 1))
            if how == "compressed"
            else faults.oversized(cap + 1, declared=how == "declared")
        )
        call: Callable[[], object] = {
            TOKEN_PATH: lambda: client.domain(plenty()),
            INSTANCE_ID: lambda: client.instance_id(plenty()),
            ACTIVE_KEYS + "alice/": lambda: client.active_keys("alice", plenty()),
            SIGNER_CERT: lambda: client.signer_chain(plenty()),
            SIGNER_OCSP: lambda: client.staple_names(plenty()),
            SIGNER_OCSP + "A": lambda: client.staple("A", plenty()),
        }[path]
        with pytest.raises(MetadataUnavailable, match=f"{path}: .* more than {cap} bytes"):
            call()

    def test_a_document_of_exactly_its_cap_is_taken(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[ACTIVE_KEYS + "alice/"] = b"a"
        for fault in (faults.oversized(1 << 18), faults.compressed(b"A" * (1 << 18))):
            sim.faults[ACTIVE_KEYS + "alice/"] = fault
            assert client.active_keys("alice", plenty()) == b"A" * (1 << 18)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(1 << 27)),
            CHUNKED + b"-1\r\n" + bytes(1 << 24),
            b"HTTP/1.1 100 Continue\r\n\r\n" * (1 << 19),
            CHUNKED + b"1\r\na\r\n0\r\n" + b"A: b\r\n" * (1 << 21),
        ],
        ids=["gzip bomb", "negative chunk", "interim answers", "trailers"],
    )
    def test_no_answer_fills_the_memory(
        self, answer: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        def poured(_: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            for begin in range(0, len(answer), 65536):
                yield answer[begin : begin + 65536]
            raise faults.Hangup

        client.domain(plenty())
        sim.faults[ACTIVE_KEYS + "alice/"] = poured
        tracemalloc.start()
        try:
            with pytest.raises(MetadataUnavailable, match="more than"):
                client.active_keys("alice", plenty())
            assert tracemalloc.get_traced_memory()[1] < 1 << 23
        finally:
            tracemalloc.stop()

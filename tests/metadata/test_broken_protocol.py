"""Services that break HTTP."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.endpoints import endpoint_addresses
from eic_agent.metadata.exchange import Service
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import ACTIVE_KEYS
from tests.metadata.service import REGION, plenty

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class TestBrokenProtocol:
    def test_a_chunked_answer_is_an_answer(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[REGION] = faults.raw(CHUNKED + b"3\r\nus-\r\n6;x=y\r\nwest-2\r\n0\r\n\r\n")
        assert client.region(plenty()) == "us-west-2"

    def test_an_answer_may_end_with_its_connection(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[REGION] = faults.raw(b"HTTP/1.0 200 OK\r\n\r\nus-west-2\n")
        assert client.region(plenty()) == "us-west-2"

    def test_a_compressed_answer_is_an_answer(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[REGION] = faults.compressed()
        assert client.region(plenty()) == "us-east-1"

    @pytest.mark.parametrize(
        "answer",
        [
            b"\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 \x1b[2J\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 -1 OK\r\n\r\n",
            b"HTTP/3 200 OK\r\n\r\n",
            b"HTTP/1.1 200 " + b"O" * 70000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9, 8\r\n\r\nus-west-2",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nus-west-2",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip,gzip,gzip,gzip,gzip,gzip\r\n\r\nus-west-2",
            CHUNKED + b"zz\r\n",
            CHUNKED + b"-5\r\nus-west-2",
            CHUNKED + b"9" * 70000,
        ],
        ids=lambda answer: ascii(answer[:60]),
    )
    def test_an_answer_that_is_none_is_unavailable_and_says_what_was_asked(
        self, answer: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[REGION] = faults.raw(answer)
        with pytest.raises(MetadataUnavailable, match=f"^GET http://.*{REGION}: ") as caught:
            client.region(plenty())
        assert not isinstance(caught.value, MetadataUnreachable)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
        del sim.faults[REGION]
        assert client.region(plenty()) == "us-east-1"


_HEADER = st.sampled_from(
    [
        b"Content-Length: 3",
        b"Content-Length: -1",
        b"Content-Length: " + b"9" * 30,
        b"Content-Length: x",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Content-Encoding: gzip",
        b"Content-Encoding: deflate",
        b"Content-Encoding: br, zstd",
        b"Content-Type: multipart/mixed; boundary=x",
        b"Connection: close",
        b"Set-Cookie: a=b; expires=never; max-age=x",
        b"Location: http://[",
        b"Date: never",
        b" folded",
        b":",
        b"",
    ]
)


class TestAnyBytes:
    @settings(max_examples=300, deadline=None)
    @given(
        status=st.sampled_from([b"200", b"404", b"401", b"302", b"100", b"101", b"500", b"0"])
        | st.binary(max_size=8),
        headers=st.lists(_HEADER | st.binary(max_size=30), max_size=5),
        body=st.binary(max_size=60)
        | st.lists(st.sampled_from([b"3\r\nabc\r\n", b"0\r\n\r\n", b"-1\r\n", b"\r\n"])).map(
            b"".join
        ),
    )
    def test_give_a_document_or_unavailable(
        self, any_sim: MetadataSimulator, status: bytes, headers: list[bytes], body: bytes
    ) -> None:
        head = b"\r\n".join([b"HTTP/1.1 " + status, *headers])
        any_sim.faults[ACTIVE_KEYS + "alice/"] = faults.raw(head + b"\r\n\r\n" + body)
        service = Service(endpoint_addresses(any_sim.server.url), lambda: None)
        try:
            service.ask("GET", ACTIVE_KEYS + "alice/", {}, 1 << 20, plenty()).document()
        except MetadataUnavailable as error:
            assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        finally:
            service.close()

    @pytest.fixture(name="any_sim", scope="class")
    @staticmethod
    def shared_simulator() -> Iterator[MetadataSimulator]:
        sim = MetadataSimulator()
        sim.token_required = False
        with sim.serve():
            yield sim

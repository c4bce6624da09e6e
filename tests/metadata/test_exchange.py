"""How a request looks, and what is kept between two."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eic_agent import __version__
from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata.client import MetadataClient
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import ACTIVE_KEYS
from tests.metadata.service import (
    INSTANCE_ID,
    PLENTY_S,
    REGION,
    Ask,
    MakeClient,
    held_back,
    plenty,
    with_header,
)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class TestManners:
    def test_a_request_says_who_asks_and_nothing_more(
        self, sim: MetadataSimulator, url: str, client: MetadataClient
    ) -> None:
        client.region(plenty())
        put, get = sim.log
        common = {
            "host": url.removeprefix("http://"),
            "user-agent": f"eic-agent/{__version__}",
            "accept-encoding": "identity",
        }
        assert get.headers.pop("x-aws-ec2-metadata-token")
        assert get.headers == common
        assert put.headers == common | {
            "x-aws-ec2-metadata-token-ttl-seconds": "21600",
            "content-length": "0",
        }

    def test_the_environment_changes_nothing(
        self,
        sim: MetadataSimulator,
        url: str,
        make: MakeClient,
        dead_url: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("default login alice password secret\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, dead_url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert make(url).region(plenty()) == "us-east-1"
        assert "authorization" not in sim.log[-1].headers

    def test_redirects_are_not_followed(
        self, sim: MetadataSimulator, url: str, client: MetadataClient
    ) -> None:
        for code in (301, 302, 303, 307, 308):
            sim.faults[INSTANCE_ID] = faults.redirect(url + REGION, code)
            with pytest.raises(MetadataUnavailable, match=f"instance-id/: answered {code}"):
                client.instance_id(plenty())
        assert sim.requests[REGION] == 0

    def test_cookies_are_not_kept(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        sim.faults["*"] = with_header("Set-Cookie", "a=b; Path=/")
        client.region(plenty())
        client.region(plenty())
        assert not any("cookie" in request.headers for request in sim.log)

    def test_one_connection_is_kept_alive(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        for user in ("alice", "bob", "carol"):
            assert client.active_keys(user, plenty()) is None
            client.region(plenty())
        assert sim.server.connections_accepted == 1

    def test_a_service_that_keeps_no_connection_is_asked_anew_each_time(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.keep_alive = False
        client.region(plenty())
        client.region(plenty())
        assert sim.server.connections_accepted == 3

    def test_a_restarted_service_costs_nothing(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.region(plenty())
        sim.server.cut_connections()
        assert client.region(plenty()) == "us-east-1"

    def test_an_answer_cut_short_anywhere_is_never_taken_for_a_shorter_one(
        self, sim: MetadataSimulator, ask: Ask
    ) -> None:
        sim.documents[ACTIVE_KEYS + "alice/"] = b"a\n\nb\n\n"
        whole: list[bytes] = []

        def noted(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            whole.append(answer.raw())
            yield whole[0]

        sim.faults[ACTIVE_KEYS + "alice/"] = noted
        ask(ACTIVE_KEYS + "alice/")
        for size in range(1, len(whole[0])):
            sim.faults[ACTIVE_KEYS + "alice/"] = faults.drop(size)
            with pytest.raises(MetadataUnreachable, match=f"closed, with {size} bytes"):
                ask(ACTIVE_KEYS + "alice/")

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nus-west-2",
            CHUNKED,
            CHUNKED + b"9\r\nus-",
            CHUNKED + b"9\r\nus-west-2",
            CHUNKED + b"9\r\nus-west-2\r\n0\r\n",
            CHUNKED + b"ffffffffffffffffffffffff\r\nus-west-2",
        ],
    )
    def test_an_answer_that_ends_before_its_end_is_lost(
        self, answer: bytes, sim: MetadataSimulator, ask: Ask
    ) -> None:
        sim.faults[REGION] = faults.raw(answer)
        with pytest.raises(MetadataUnreachable, match=f"closed, with {len(answer)} bytes"):
            ask(REGION)

    def test_requests_are_counted_as_they_leave(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: client.region(plenty()), range(40)))
        sim.faults[REGION] = faults.status(401)
        with pytest.raises(MetadataUnavailable):
            client.region(plenty())
        assert client.requests_sent == sum(sim.requests.values()) == 40 + 1 + 3

    def test_no_fault_leaks_a_descriptor(self, sim: MetadataSimulator, ask: Ask) -> None:
        for fault in (
            faults.drop(0),
            faults.drop(100),
            faults.raw(b"\r\n"),
            faults.oversized(1 << 17),
            faults.redirect("http://192.0.2.1/"),
        ):
            ask(INSTANCE_ID)
            before = descriptors()
            sim.faults[REGION] = fault
            for _ in range(20):
                with pytest.raises(MetadataUnavailable):
                    ask(REGION, cap=1 << 16).document()
            ask(INSTANCE_ID)
            patience = plenty()
            while descriptors() > before:  # the service closes its side when it likes
                assert patience.remaining()
                time.sleep(0.01)

    def test_a_closed_client_keeps_no_connection_and_still_answers(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.region(plenty())
        before = descriptors()
        client.close()
        client.close()
        assert descriptors() < before
        accepted = sim.server.connections_accepted
        for _ in range(3):
            assert client.region(plenty()) == "us-east-1"
        assert sim.server.connections_accepted == accepted + 3

    def test_closing_cuts_nobody_off(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        arrived, let_go = threading.Event(), threading.Event()
        client.domain(plenty())
        sim.faults[REGION] = held_back(let_go, arrived)
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(client.region, plenty())
            assert arrived.wait(PLENTY_S)
            client.close()
            let_go.set()
            assert asking.result(PLENTY_S) == "us-east-1"

"""How a request looks, and what is kept between two."""

import errno
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eic_agent import __version__
from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata import exchange
from eic_agent.metadata.client import MetadataClient
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import ACTIVE_KEYS
from tests.metadata.service import INSTANCE_ID, REGION, MakeClient, plenty, with_header


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

    def test_a_kept_alive_connection_closed_under_a_request_is_replaced_once(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.domain(plenty())
        sim.faults[REGION] = faults.times(1, faults.drop(0))
        assert client.region(plenty()) == "us-east-1"
        assert sim.requests[REGION] == 2
        sim.faults[REGION] = faults.drop(0)
        with pytest.raises(MetadataUnreachable, match="no answer"):
            client.region(plenty())
        assert sim.requests[REGION] == 4

    def test_a_new_connection_closed_without_an_answer_is_final(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.keep_alive = False
        sim.faults[REGION] = faults.drop(0)
        with pytest.raises(MetadataUnreachable, match="no answer"):
            client.region(plenty())
        assert sim.requests[REGION] == 1

    def test_an_answer_that_has_begun_is_never_asked_for_again(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.domain(plenty())
        for size in (1, 30, 120):
            sim.faults[REGION] = faults.drop(size)
            with pytest.raises(MetadataUnavailable):
                client.region(plenty())
        assert sim.requests[REGION] == 3

    def test_an_answer_cut_short_anywhere_is_never_taken_for_a_shorter_one(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[ACTIVE_KEYS + "alice/"] = b"a\n\nb\n\n"
        whole: list[bytes] = []

        def noted(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            whole.append(answer.raw())
            yield whole[0]

        sim.faults[ACTIVE_KEYS + "alice/"] = noted
        client.active_keys("alice", plenty())
        for size in range(1, len(whole[0])):
            sim.faults[ACTIVE_KEYS + "alice/"] = faults.drop(size)
            with pytest.raises(MetadataUnavailable):
                client.active_keys("alice", plenty())

    def test_requests_are_counted_as_they_leave(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: client.region(plenty()), range(40)))
        sim.faults[REGION] = faults.status(401)
        with pytest.raises(MetadataUnavailable):
            client.region(plenty())
        assert client.requests_sent == sum(sim.requests.values()) == 40 + 1 + 3

    def test_what_could_not_be_sent_is_not_counted(self, make: MakeClient, dead_url: str) -> None:
        client = make(dead_url)
        with pytest.raises(MetadataUnreachable, match="refused"):
            client.region(plenty())
        assert client.requests_sent == 0

    @pytest.mark.parametrize(
        "refusal",
        [OSError(errno.EAFNOSUPPORT, "no such family"), OSError(errno.EMFILE, "too many")],
    )
    def test_a_machine_that_gives_no_socket_cannot_reach_metadata(
        self, refusal: OSError, make: MakeClient, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise refusal

        monkeypatch.setattr(exchange._Socket, "__init__", refuse)
        with pytest.raises(MetadataUnreachable, match=f"{refusal.strerror}, nothing sent"):
            make(url).region(plenty())

    def test_no_fault_leaks_a_descriptor(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        client = make(url, monotonic=lambda: 0.0)  # on which no failure is followed by a pause

        def descriptors() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        for fault in (
            faults.drop(0),
            faults.drop(100),
            faults.raw(b"\r\n"),
            faults.oversized(1 << 17),
            faults.redirect("http://192.0.2.1/"),
        ):
            client.domain(plenty())
            before = descriptors()
            sim.faults[REGION] = fault
            for _ in range(20):
                with pytest.raises(MetadataUnavailable):
                    client.region(plenty())
            client.domain(plenty())
            patience = plenty()
            while descriptors() > before:  # the service closes its side when it likes
                assert patience.remaining()
                time.sleep(0.01)

    def test_a_closed_client_closes_its_connections(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.region(plenty())
        client.close()
        with pytest.raises(MetadataUnavailable, match="closed"):
            client.region(plenty())

"""Metadata over HTTP: against the simulator, and against services that break the protocol."""

import contextlib
import errno
import gzip
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eic_agent import __version__
from eic_agent.errors import ConfigError, MetadataUnavailable, Reason, UntrustedMaterial
from eic_agent.metadata import client as imds
from eic_agent.metadata.client import (
    Deadline,
    MetadataClient,
    MetadataUnreachable,
    Outage,
    endpoint_urls,
)
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import (
    ACTIVE_KEYS,
    META,
    SIGNER_CERT,
    SIGNER_OCSP,
    SSH_KEYS,
    TOKEN_PATH,
)
from tests.support import lacking

INSTANCE_ID = META + "instance-id/"
REGION = META + "placement/region"
PLENTY_S = 60.0
"""For what must happen, however slow the machine."""

MakeClient = Callable[..., MetadataClient]


def plenty() -> Deadline:
    return Deadline.after(PLENTY_S)


@pytest.fixture(name="sim")
def simulator() -> MetadataSimulator:
    return MetadataSimulator()


@pytest.fixture(name="url")
def served(sim: MetadataSimulator) -> Iterator[str]:
    with sim.serve() as url:
        yield url


@pytest.fixture(name="make")
def make_client() -> Iterator[MakeClient]:
    """Make clients that have all the time they need, and close them."""
    with contextlib.ExitStack() as stack:

        def make(endpoint: str, timeout_s: float = PLENTY_S, **options: object) -> MetadataClient:
            client = MetadataClient(endpoint, timeout_s, **options)  # type: ignore[arg-type]
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(name="client")
def connected(make: MakeClient, url: str) -> MetadataClient:
    return make(url)


@pytest.fixture(name="dead_url")
def nothing_listens() -> Iterator[str]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def never_accepting() -> Iterator[str]:
    """Listen with a full backlog, so that to connect takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
            yield f"http://127.0.0.1:{address[1]}"


class TestDeadline:
    def test_what_remains_shrinks_to_zero_and_not_below(self) -> None:
        assert 0 < Deadline.after(PLENTY_S).remaining() <= PLENTY_S
        assert Deadline.after(-1).remaining() == 0

    def test_the_earlier_of_two_wins(self) -> None:
        assert Deadline.after(PLENTY_S).at_most(1).remaining() <= 1
        soon = Deadline.after(1)
        assert soon.at_most(PLENTY_S) == soon


class TestEndpoint:
    @pytest.mark.parametrize(
        ("endpoint", "urls"),
        [
            ("auto", ("http://169.254.169.254", "http://[fd00:ec2::254]")),
            ("ipv4", ("http://169.254.169.254",)),
            ("ipv6", ("http://[fd00:ec2::254]",)),
            ("http://192.0.2.1", ("http://192.0.2.1",)),
            ("http://192.0.2.1:8080/", ("http://192.0.2.1:8080",)),
            ("http://[2001:db8::1]:1", ("http://[2001:db8::1]:1",)),
            ("http://localhost:1338", ("http://127.0.0.1:1338", "http://[::1]:1338")),
        ],
    )
    def test_urls_in_the_order_to_try(self, endpoint: str, urls: tuple[str, ...]) -> None:
        assert endpoint_urls(endpoint) == urls

    @pytest.mark.parametrize(
        "endpoint",
        [
            "",
            "AUTO",
            "https://169.254.169.254",
            "169.254.169.254",
            "http://",
            "http://metadata.example",
            "http://192.0.2.1/latest",
            "http://192.0.2.1?q",
            "http://192.0.2.1#f",
            "http://user@192.0.2.1",
            "http://192.0.2.1:0",
            "http://192.0.2.1:65536",
            "http://192.0.2.1:",
            "http://192.0.2.1:\u0661",
            "http://192.0.2.256",
            "http://[::1",
            "http://[fe80::1%25eth0]",
            "http://192.0.2.1\n",
        ],
    )
    def test_anything_else_is_a_configuration_error(self, endpoint: str) -> None:
        with pytest.raises(ConfigError, match=r"neither .auto. nor"):
            MetadataClient(endpoint)

    def test_localhost_is_asked_without_looking_it_up(
        self, make: MakeClient, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = make(url.replace("127.0.0.1", "localhost"))
        assert client.instance_id(plenty()) == "i-0123456789abcdef0"

    def test_ipv6_is_asked_with_a_bracketed_host_header(
        self, sim: MetadataSimulator, make: MakeClient
    ) -> None:
        try:
            serving = sim.serve("::1")
            url = serving.__enter__()
        except OSError:
            lacking("IPv6 on the loopback interface", "sysctl net.ipv6.conf.lo.disable_ipv6=0")
        with contextlib.ExitStack() as stack:
            stack.push(serving)
            assert make(url).domain(plenty()) == "amazonaws.com"
            assert sim.log[-1].headers["host"] == url.removeprefix("http://")


class TestAuto:
    @pytest.fixture(name="other")
    def other_simulator(self) -> MetadataSimulator:
        return MetadataSimulator(instance_id="i-0fedcba9876543210")

    @pytest.fixture(name="use")
    def substitute(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
        def use(ipv4: str, ipv6: str) -> None:
            monkeypatch.setattr(imds, "IPV4_ENDPOINT", ipv4)
            monkeypatch.setattr(imds, "IPV6_ENDPOINT", ipv6)

        return use

    def test_ipv4_comes_first(
        self,
        sim: MetadataSimulator,
        url: str,
        other: MetadataSimulator,
        make: MakeClient,
        use: Callable[[str, str], None],
    ) -> None:
        with other.serve() as other_url:
            use(url, other_url)
            assert make("auto").instance_id(plenty()) == sim.instance_id
        assert not other.log

    def test_ipv6_is_asked_when_ipv4_is_unreachable(
        self,
        sim: MetadataSimulator,
        url: str,
        dead_url: str,
        make: MakeClient,
        use: Callable[[str, str], None],
    ) -> None:
        use(dead_url, url)
        assert make("auto").instance_id(plenty()) == sim.instance_id

    @pytest.mark.parametrize("fault", [faults.silence(), faults.drop(0)])
    def test_the_one_that_answered_is_remembered(
        self,
        fault: faults.Fault,
        sim: MetadataSimulator,
        url: str,
        other: MetadataSimulator,
        make: MakeClient,
        use: Callable[[str, str], None],
    ) -> None:
        other.faults["*"] = fault
        with other.serve() as other_url:
            use(other_url, url)
            client = make("auto", timeout_s=1.0)
            for _ in range(3):
                assert client.instance_id(plenty()) == sim.instance_id
        assert other.requests == {TOKEN_PATH: 1}

    def test_a_failure_makes_it_forget_which_one_answered(
        self,
        sim: MetadataSimulator,
        url: str,
        other: MetadataSimulator,
        make: MakeClient,
        use: Callable[[str, str], None],
    ) -> None:
        other.faults["*"] = faults.drop(0)
        with other.serve() as other_url:
            use(other_url, url)
            client = make("auto")
            assert client.instance_id(plenty()) == sim.instance_id
            sim.faults["*"] = faults.drop(0)
            del other.faults["*"]
            with pytest.raises(MetadataUnreachable):
                client.instance_id(plenty())
            assert client.instance_id(plenty()) == other.instance_id

    def test_an_odd_answer_is_an_answer_and_nobody_else_is_asked(
        self,
        sim: MetadataSimulator,
        url: str,
        other: MetadataSimulator,
        make: MakeClient,
        use: Callable[[str, str], None],
    ) -> None:
        sim.faults[TOKEN_PATH] = faults.raw(b"220 mail.example ESMTP\r\n")
        with other.serve() as other_url:
            use(url, other_url)
            with pytest.raises(MetadataUnavailable):
                make("auto").instance_id(plenty())
        assert not other.log

    def test_where_none_answers_both_are_named(
        self, dead_url: str, make: MakeClient, use: Callable[[str, str], None]
    ) -> None:
        use(dead_url, dead_url.replace("127.0.0.1", "[::1]"))
        with pytest.raises(MetadataUnreachable) as caught:
            make("auto").instance_id(plenty())
        assert f"PUT {dead_url}{TOKEN_PATH}: " in str(caught.value)
        assert "PUT http://[::1]:" in str(caught.value)


class TestDocuments:
    def test_every_document_is_asked_for_by_its_path(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        name = client.staple_names(plenty())[0]
        calls: dict[str, Callable[[], object]] = {
            META + "instance-id/": lambda: client.instance_id(plenty()),
            META + "placement/availability-zone/": lambda: client.availability_zone(plenty()),
            META + "placement/region": lambda: client.region(plenty()),
            META + "services/domain/": lambda: client.domain(plenty()),
            SSH_KEYS + "active-keys/alice/": lambda: client.active_keys("alice", plenty()),
            SSH_KEYS + "active-keys/": lambda: client.users_with_keys(plenty()),
            SSH_KEYS + "signer-cert/": lambda: client.signer_chain(plenty()),
            SSH_KEYS + "signer-ocsp/": lambda: client.staple_names(plenty()),
            SSH_KEYS + "signer-ocsp/" + name: lambda: client.staple(name, plenty()),
        }
        for path, call in calls.items():
            call()
            assert sim.log[-1].path == path

    def test_facts_are_stripped_text(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        sim.documents[INSTANCE_ID] = b" i-0123456789abcdef0\r\n"
        assert client.instance_id(plenty()) == "i-0123456789abcdef0"
        assert client.availability_zone(plenty()) == "us-east-1a"
        assert client.region(plenty()) == "us-east-1"
        assert client.domain(plenty()) == "amazonaws.com"

    def test_a_region_may_be_missing(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        sim.region = None
        assert client.region(plenty()) is None

    @pytest.mark.parametrize(
        "document",
        [b"", b" \n", b"i-\xc3\xa9", b"i-\x00", b"i-\x1b[2J", b"i-1\ni-2", b"\x7f", b"i" * 1025],
    )
    @pytest.mark.parametrize("path", [INSTANCE_ID, REGION])
    def test_no_line_of_printable_ascii_is_no_fact(
        self, path: str, document: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[path] = document
        with pytest.raises(MetadataUnavailable, match=r"[ -~]+") as caught:
            client.instance_id(plenty()) if path == INSTANCE_ID else client.region(plenty())
        assert path in str(caught.value)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("status", [404, 403, 400, 429, 204, 206, 304])
    def test_any_other_status_is_no_document(
        self, status: int, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[SIGNER_CERT] = faults.status(status)
        with pytest.raises(MetadataUnavailable, match=f"signer-cert/: answered {status}") as caught:
            client.signer_chain(plenty())
        assert not isinstance(caught.value, MetadataUnreachable)

    def test_a_service_out_of_order_is_as_good_as_none(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[SIGNER_CERT] = faults.status(503)
        with pytest.raises(MetadataUnreachable, match="answered 503"):
            client.signer_chain(plenty())

    def test_active_keys_come_byte_for_byte(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        assert client.active_keys("alice", plenty()) is None
        sim.documents[ACTIVE_KEYS + "alice/"] = b"\r\n #\xff\x00\n\n"
        assert client.active_keys("alice", plenty()) == b"\r\n #\xff\x00\n\n"
        sim.documents[ACTIVE_KEYS + "alice/"] = b""
        assert client.active_keys("alice", plenty()) == b""

    @pytest.mark.parametrize(
        ("user", "segment"),
        [
            ("alice@corp.example", "alice@corp.example"),
            ("machine$", "machine$"),
            ("a-b_c.d~", "a-b_c.d~"),
            ("a/../b", "a%2F..%2Fb"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "%2E%2E%2E"),
            (".a", ".a"),
            ("%2F", "%252F"),
            ("%2e%2E", "%252e%252E"),
            ("a%", "a%25"),
            ("a b\t", "a%20b%09"),
            ("a?b#c;d&e=f+g:h", "a%3Fb%23c%3Bd%26e%3Df%2Bg%3Ah"),
            ("a\r\nX-Evil: 1", "a%0D%0AX-Evil%3A%201"),
            ("\0", "%00"),
            ("\\", "%5C"),
            ("gr\u00fc\u00df", "gr%C3%BC%C3%9F"),
            ("\udcff", "%ED%B3%BF"),
        ],
    )
    def test_a_user_name_is_one_segment_of_the_path_exactly_as_encoded(
        self, user: str, segment: str, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.active_keys(user, plenty())
        assert sim.log[-1].path == f"{ACTIVE_KEYS}{segment}/"

    def test_users_with_keys_are_listed_one_a_line(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        assert client.users_with_keys(plenty()) == ()
        sim.documents[ACTIVE_KEYS] = b"alice\r\nbob/\n\n"
        assert client.users_with_keys(plenty()) == ("alice", "bob")
        sim.documents[ACTIVE_KEYS] = b"\n"
        assert client.users_with_keys(plenty()) == ()
        sim.documents[ACTIVE_KEYS] = b"alice\nb\x1bb"
        with pytest.raises(MetadataUnavailable):
            client.users_with_keys(plenty())

    def test_signer_and_staples(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        assert client.signer_chain(plenty()) == b"".join(recipe.pem for recipe in sim.chain)
        names = client.staple_names(plenty())
        assert len(names) == 3
        assert all(client.staple(name, plenty()).startswith(b"\x30") for name in names)

    def test_a_service_without_a_list_of_staples_has_none(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[SIGNER_OCSP] = None
        assert client.staple_names(plenty()) == ()

    def test_staple_names_are_separated_by_any_white_space_and_told_once(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[SIGNER_OCSP] = b"\tAB12 x.y-z_0\r\n\nAB12\n" + b"a" * 128
        assert client.staple_names(plenty()) == ("AB12", "x.y-z_0", "a" * 128)

    @pytest.mark.parametrize(
        "document",
        [
            b"..",
            b"-",
            b"a/b",
            b"../user-data",
            b"a%2Fb",
            b"a?b",
            b"\xc3\xa9",
            b"\xb2",
            b"a\x00",
            b"a" * 129,
            b" ".join(b"%d" % n for n in range(17)),
        ],
    )
    def test_a_list_that_no_service_would_have_is_no_list_of_staples(
        self, document: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[SIGNER_OCSP] = document
        with pytest.raises(UntrustedMaterial) as caught:
            client.staple_names(plenty())
        assert caught.value.reason is Reason.NO_VALID_STAPLE
        assert caught.value.detail.isprintable()

    def test_a_staple_may_be_wrapped(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        sim.documents[SIGNER_OCSP + "A"] = b"MAA\r\nwAwoB\n BgoB\tBg==\n"
        assert client.staple("A", plenty()) == bytes.fromhex("300030030a01060a0106")

    @pytest.mark.parametrize(
        "document", [b"", b"\n", b"MAA", b"MA=A", b"M*AA", b"MAA\xff", b"-_-_"]
    )
    def test_a_staple_that_is_no_base64_is_untrusted(
        self, document: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[SIGNER_OCSP + "A"] = document
        with pytest.raises(UntrustedMaterial) as caught:
            client.staple("A", plenty())
        assert caught.value.reason is Reason.NO_VALID_STAPLE

    def test_a_staple_that_is_gone_is_unavailable(self, client: MetadataClient) -> None:
        with pytest.raises(MetadataUnavailable, match="signer-ocsp/A: answered 404"):
            client.staple("A", plenty())


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

        def held_back(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            assert answer.status == 401
            refused.set()
            renewed.wait(PLENTY_S)
            yield answer.raw()

        client.domain(plenty())
        sim.revoke_tokens()
        sim.faults[REGION] = faults.times(1, held_back)
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

        def held_back(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            let_go.wait(PLENTY_S)
            yield answer.raw()

        sim.faults[TOKEN_PATH] = held_back
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
        def with_cookie(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            answer.headers["Set-Cookie"] = "a=b; Path=/"
            yield answer.raw()

        sim.faults["*"] = with_cookie
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

        monkeypatch.setattr(imds._Socket, "__init__", refuse)
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


class TestClock:
    def test_the_offset_is_local_time_less_the_services(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        sim.now = 1_700_000_000.0
        client = make(url, wall_clock=lambda: 1_700_000_090.5)
        before = client.clock_offset_s
        assert before is None
        client.region(plenty())
        assert client.clock_offset_s == 90.5
        sim.date_offset_s = 100.0
        client.active_keys("alice", plenty())
        assert client.clock_offset_s == -9.5

    def test_an_answer_without_a_date_leaves_the_offset_as_it_was(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        sim.now = 1_700_000_000.0
        client = make(url, wall_clock=lambda: 1_700_000_090.5)
        client.region(plenty())
        sim.date_offset_s = None
        client.region(plenty())
        assert client.clock_offset_s == 90.5

    @pytest.mark.parametrize(
        "date",
        [
            "",
            "yesterday",
            "Fri, 99 Nov 2025 18:53:00 GMT",
            "Fri, 21 Foo 2025 18:53:00 GMT",
            "Fri, 21 Nov 2025 99:99:99 GMT",
            "Fri, 21 Nov 0000 00:00:00 GMT",
            "Fri, 21 Nov 2025 18:53:00 +99999999999999999",
            "9" * 5000,
        ],
    )
    def test_no_date_is_no_error(
        self, date: str, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        def dated(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            answer.headers["Date"] = date
            yield answer.raw()

        sim.faults["*"] = dated
        assert client.region(plenty()) == "us-east-1"
        assert client.clock_offset_s is None or date.endswith("0000 00:00:00 GMT")


class TestDeadlines:
    """Each service here would need minutes, or for ever, to answer."""

    @pytest.mark.parametrize("path", [TOKEN_PATH, REGION])
    @pytest.mark.parametrize(
        "fault",
        [faults.silence(), faults.drip_headers(1.0), faults.drip_body(20.0), faults.delay(300.0)],
    )
    def test_a_request_takes_no_longer_than_its_timeout(
        self,
        fault: faults.Fault,
        path: str,
        sim: MetadataSimulator,
        url: str,
        make: MakeClient,
    ) -> None:
        client = make(url, timeout_s=2.0)
        client.domain(plenty())
        sim.revoke_tokens()
        sim.faults[path] = fault
        with pytest.raises(MetadataUnreachable, match=f"{path}: out of time after 2 s, with"):
            client.region(plenty())

    @pytest.mark.parametrize(
        "fault",
        [faults.silence(), faults.drip_headers(1.0), faults.drip_body(20.0), faults.delay(300.0)],
    )
    def test_a_lookups_deadline_cuts_a_request_short(
        self, fault: faults.Fault, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.domain(plenty())
        sim.faults[REGION] = fault
        with pytest.raises(MetadataUnavailable, match="out of time"):
            client.region(Deadline.after(0.3))

    def test_connecting_is_bounded_too(self, make: MakeClient) -> None:
        with never_accepting() as url:
            client = make(url, timeout_s=0.3)
            with pytest.raises(MetadataUnreachable, match="out of time"):
                client.region(plenty())
            assert client.requests_sent == 0

    def test_dripped_chunks_are_bounded_too(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        def chunks(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            while True:
                yield b"1\r\na\r\n"
                wait(0.1)

        client = make(url, timeout_s=1.0)
        client.domain(plenty())
        sim.faults[ACTIVE_KEYS + "alice/"] = chunks
        with pytest.raises(MetadataUnreachable, match="bytes of the answer"):
            client.active_keys("alice", plenty())

    def test_endless_interim_answers_are_bounded_too(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        def interim(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            while True:
                yield b"HTTP/1.1 100 Continue\r\n\r\n"
                wait(0.05)

        client = make(url, timeout_s=1.0)
        client.domain(plenty())
        sim.faults[REGION] = interim
        with pytest.raises(MetadataUnreachable, match="bytes of the answer"):
            client.region(plenty())

    def test_a_deadline_that_is_over_sends_nothing(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.region(plenty())
        with pytest.raises(MetadataUnavailable, match="no time left"):
            client.region(Deadline.after(0))
        assert sim.requests[REGION] == 1


class TestSocket:
    @pytest.fixture(name="pair")
    def connected_pair(self) -> Iterator[tuple[imds._Socket, socket.socket]]:
        ours, peer = socket.socketpair()
        with imds._Socket(fileno=ours.detach()) as sock, peer:
            yield sock, peer

    def test_sending_is_bounded_too(self, pair: tuple[imds._Socket, socket.socket]) -> None:
        sock, _ = pair
        sock.expect_answer(Deadline.after(0.1), reused=False)
        with pytest.raises(imds._Broken, match="out of time") as caught:
            sock.sendall(bytes(1 << 26))
        assert caught.value.late

    def test_what_was_said_before_hanging_up_is_heard(
        self, pair: tuple[imds._Socket, socket.socket]
    ) -> None:
        sock, peer = pair
        sock.expect_answer(plenty(), reused=False)
        peer.sendall(b"HTTP/1.1 400")
        peer.shutdown(socket.SHUT_RD)
        sock.sendall(b"GET")
        assert sock.makefile("rb", 0).read(100) == b"HTTP/1.1 400"


class TestOutage:
    @pytest.fixture(name="uptime")
    def monotonic_clock(self) -> list[float]:
        return [1000.0]

    @pytest.fixture(name="outage")
    def with_a_clock_of_its_own(self, uptime: list[float]) -> Outage:
        return Outage(5.0, lambda: uptime[0])

    @contextlib.contextmanager
    def failing(
        self, outage: Outage, error: type[MetadataUnavailable] = MetadataUnreachable
    ) -> Iterator[None]:
        with pytest.raises(error, match="in vain"), outage.attempt(plenty()):  # noqa: PT012 - a frame
            yield
            raise error("in vain")

    def fail(self, outage: Outage, uptime: list[float], took_s: float = 0.0) -> None:
        with self.failing(outage):
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

    def test_after_a_failure_one_probe_at_a_time_is_let_through(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        self.fail(outage, uptime, 1.0)
        with outage.attempt(plenty()):
            self.assert_closed(outage)
            self.assert_closed(outage)
        self.assert_open_to_all(outage)

    def test_a_probe_that_fails_is_followed_by_a_pause_as_long(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        self.fail(outage, uptime, 1.0)
        self.fail(outage, uptime, 1.5)
        uptime[0] += 1.4
        self.assert_closed(outage)
        uptime[0] += 0.2
        with outage.attempt(plenty()):
            self.assert_closed(outage)
        self.assert_open_to_all(outage)

    def test_a_probe_that_fails_quickly_is_followed_by_no_pause(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        for _ in range(3):
            self.fail(outage, uptime, 0.05)
        with outage.attempt(plenty()):
            self.assert_closed(outage)

    def test_it_is_forgotten_when_nobody_has_asked_for_a_while(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        self.fail(outage, uptime, 1.0)
        self.fail(outage, uptime, 1.0)
        uptime[0] += 5.0
        self.assert_open_to_all(outage)
        self.fail(outage, uptime, 1.0)
        with outage.attempt(plenty()):
            pass

    def test_any_answer_ends_it(self, outage: Outage, uptime: list[float]) -> None:
        self.fail(outage, uptime)
        with self.failing(outage, MetadataUnavailable):
            self.assert_closed(outage)
        self.assert_open_to_all(outage)

    def test_an_odd_answer_does_not_begin_it(self, outage: Outage) -> None:
        for _ in range(3):
            with self.failing(outage, MetadataUnavailable):
                pass
        self.assert_open_to_all(outage)

    def test_a_caller_whose_own_time_was_over_tells_nothing(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        with pytest.raises(MetadataUnreachable), outage.attempt(Deadline.after(0)):
            raise MetadataUnreachable("out of time")
        self.assert_open_to_all(outage)
        self.fail(outage, uptime)
        with pytest.raises(MetadataUnavailable), outage.attempt(Deadline.after(0)):
            raise MetadataUnavailable("no token before the deadline")
        with outage.attempt(plenty()):
            self.assert_closed(outage)

    def test_calls_that_fail_side_by_side_are_one_failure(
        self, outage: Outage, uptime: list[float]
    ) -> None:
        with self.failing(outage):
            uptime[0] += 0.1
            self.fail(outage, uptime, 1.0)
        with outage.attempt(plenty()):
            pass

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
        with pytest.raises(ZeroDivisionError), outage.attempt(plenty()):
            raise ZeroDivisionError
        with outage.attempt(plenty()):
            pass

    def test_while_a_probe_waits_for_the_service_other_calls_fail_at_once(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        arrived, let_go = threading.Event(), threading.Event()

        def held_back(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
            arrived.set()
            let_go.wait(PLENTY_S)
            yield answer.raw()

        sim.faults[REGION] = faults.status(503)
        with pytest.raises(MetadataUnreachable):
            client.region(plenty())
        sim.faults[REGION] = held_back
        with ThreadPoolExecutor(1) as threads:
            probe = threads.submit(client.region, plenty())
            assert arrived.wait(PLENTY_S)
            with pytest.raises(MetadataUnavailable, match="not asked again yet"):
                client.domain(plenty())
            let_go.set()
            assert probe.result(PLENTY_S) == "us-east-1"
        assert client.domain(plenty()) == "amazonaws.com"

    def test_a_service_that_is_back_is_noticed_by_the_next_call(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults["*"] = faults.status(503)
        with pytest.raises(MetadataUnreachable):
            client.region(plenty())
        del sim.faults["*"]
        assert client.region(plenty()) == "us-east-1"

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
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nus-west-2",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9, 8\r\n\r\nus-west-2",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nus-west-2",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip,gzip,gzip,gzip,gzip,gzip\r\n\r\nus-west-2",
            CHUNKED,
            CHUNKED + b"zz\r\n",
            CHUNKED + b"9\r\nus-",
            CHUNKED + b"-5\r\nus-west-2",
            CHUNKED + b"9" * 70000,
            CHUNKED + b"ffffffffffffffffffffffff\r\nus-west-2",
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

    @pytest.mark.parametrize(
        ("path", "cap"),
        [
            (TOKEN_PATH, 1024),
            (INSTANCE_ID, 1024),
            (ACTIVE_KEYS + "alice/", 1 << 20),
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
        for fault in (faults.oversized(1 << 20), faults.compressed(b"A" * (1 << 20))):
            sim.faults[ACTIVE_KEYS + "alice/"] = fault
            assert client.active_keys("alice", plenty()) == b"A" * (1 << 20)

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
        client = MetadataClient(any_sim.server.url, PLENTY_S)
        try:
            client.active_keys("alice", plenty())
        except MetadataUnavailable as error:
            assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        finally:
            client.close()

    @pytest.fixture(name="any_sim", scope="class")
    @staticmethod
    def shared_simulator() -> Iterator[MetadataSimulator]:
        sim = MetadataSimulator()
        with sim.serve():
            yield sim

"""Which addresses are asked, in which order."""

import contextlib

import pytest

from eic_agent.errors import (
    ConfigError,
    MetadataUnavailable,
    MetadataUnreachable,
)
from eic_agent.metadata import endpoints
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_agent.metadata.endpoints import Address, endpoint_addresses
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import (
    TOKEN_PATH,
)
from tests.metadata.service import (
    MakeClient,
    Use,
    never_accepting,
    plenty,
)
from tests.support import lacking


class TestEndpoint:
    @pytest.mark.parametrize(
        ("endpoint", "addresses"),
        [
            ("auto", (("169.254.169.254", 80), ("fd00:ec2::254", 80))),
            ("ipv4", (("169.254.169.254", 80),)),
            ("ipv6", (("fd00:ec2::254", 80),)),
            ("http://192.0.2.1", (("192.0.2.1", 80),)),
            ("http://192.0.2.1:8080/", (("192.0.2.1", 8080),)),
            ("http://[fd00:ec2::254]", (("fd00:ec2::254", 80),)),
            ("http://[2001:db8::1]:1", (("2001:db8::1", 1),)),
            ("http://localhost:1338", (("127.0.0.1", 1338), ("::1", 1338))),
        ],
    )
    def test_addresses_in_the_order_to_try(
        self, endpoint: str, addresses: tuple[Address, ...]
    ) -> None:
        assert endpoint_addresses(endpoint) == addresses

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
    def substitute(self, monkeypatch: pytest.MonkeyPatch) -> Use:
        def use(ipv4: str, ipv6: str) -> None:
            monkeypatch.setattr(endpoints, "IPV4", endpoint_addresses(ipv4)[0])
            monkeypatch.setattr(endpoints, "IPV6", endpoint_addresses(ipv6)[0])

        return use

    def test_ipv4_comes_first(
        self,
        sim: MetadataSimulator,
        url: str,
        other: MetadataSimulator,
        make: MakeClient,
        use: Use,
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
        use: Use,
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
        use: Use,
    ) -> None:
        other.faults["*"] = fault
        with other.serve() as other_url:
            use(other_url, url)
            client = make("auto", timeout_s=1.0)
            for _ in range(3):
                assert client.instance_id(plenty()) == sim.instance_id
        assert other.requests == {TOKEN_PATH: 1}

    def test_a_failure_makes_it_ask_the_other_one(
        self,
        sim: MetadataSimulator,
        url: str,
        other: MetadataSimulator,
        make: MakeClient,
        use: Use,
    ) -> None:
        other.faults["*"] = faults.drop(0)
        with other.serve() as other_url:
            use(other_url, url)
            client = make("auto")
            assert client.instance_id(plenty()) == sim.instance_id
            sim.faults["*"] = faults.drop(0)
            del other.faults["*"]
            assert client.instance_id(plenty()) == other.instance_id

    def test_an_odd_answer_is_an_answer_and_nobody_else_is_asked(
        self,
        sim: MetadataSimulator,
        url: str,
        other: MetadataSimulator,
        make: MakeClient,
        use: Use,
    ) -> None:
        sim.faults[TOKEN_PATH] = faults.raw(b"220 mail.example ESMTP\r\n")
        with other.serve() as other_url:
            use(url, other_url)
            with pytest.raises(MetadataUnavailable):
                make("auto").instance_id(plenty())
        assert not other.log

    def test_an_address_that_leads_nowhere_costs_a_moment(
        self, sim: MetadataSimulator, url: str, make: MakeClient, use: Use
    ) -> None:
        with never_accepting() as nowhere:
            use(nowhere, url)
            client = make("auto", timeout_s=5.0)
            assert client.instance_id(Deadline.after(5.0)) == sim.instance_id
            sim.keep_alive = False
            assert client.instance_id(plenty()) == sim.instance_id
            assert client._service._addresses[0] == endpoint_addresses(url)[0]

    def test_where_none_answers_both_are_named(
        self, dead_url: str, make: MakeClient, use: Use
    ) -> None:
        use(dead_url, dead_url.replace("127.0.0.1", "[::1]"))
        with pytest.raises(MetadataUnreachable) as caught:
            make("auto").instance_id(plenty())
        assert f"PUT {dead_url}{TOKEN_PATH}: " in str(caught.value)
        assert "127.0.0.1: Connection refused, ::1: " in str(caught.value)

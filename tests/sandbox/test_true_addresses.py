"""The metadata service at its true addresses, on machines with IPv4, IPv6 or both.

The addresses are the instance's own here, on its loopback interface, or lie behind a link.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import pytest

from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_sandbox import link, network
from eic_sandbox.network import METADATA_ADDRESS, Machine
from eic_sandbox.simulator import MetadataSimulator
from tests import support

METADATA_IPV6 = "fd00:ec2::254"
LOOKUP_S = 4.0
PLENTY_S = 60.0


@pytest.fixture(name="instance")
def machine_without_network() -> Iterator[Machine]:
    if problem := network.obstacle():
        support.lacking(f"network namespaces ({problem})", "apt-get install iproute2")
    with network.machine() as machine:
        yield machine


@contextlib.contextmanager
def served(machine: Machine, addresses: Sequence[str]) -> Iterator[MetadataSimulator]:
    """Serve metadata at addresses that the machine has, at port 80."""
    metadata = MetadataSimulator()
    with contextlib.ExitStack() as stack:
        for address in addresses:
            serving = metadata.serve(address, 80)
            machine.call(functools.partial(stack.enter_context, serving))
        yield metadata


def on_loopback(machine: Machine, address: str) -> None:
    if ":" in address:
        machine.run("ip", "-6", "address", "add", f"{address}/128", "dev", "lo", "nodad")
    else:
        machine.run("ip", "address", "add", f"{address}/32", "dev", "lo")


def ask(machine: Machine, endpoint: str, deadline_s: float = PLENTY_S) -> str:
    client = MetadataClient(endpoint, timeout_s=1.0)
    try:
        return machine.call(lambda: client.instance_id(Deadline.after(deadline_s)))
    finally:
        client.close()


@pytest.mark.parametrize(
    ("address", "endpoints", "host"),
    [
        (METADATA_ADDRESS, ("auto", "ipv4", "http://169.254.169.254"), "169.254.169.254"),
        (METADATA_IPV6, ("auto", "ipv6", "http://[fd00:ec2::254]"), "[fd00:ec2::254]"),
        (METADATA_IPV6, ("http://[fd00:ec2:0::254]:80/",), "[fd00:ec2::254]"),
    ],
)
def test_it_is_found_where_it_is(
    address: str, endpoints: tuple[str, ...], host: str, instance: Machine
) -> None:
    on_loopback(instance, address)
    with served(instance, [address]) as metadata:
        for endpoint in endpoints:
            assert ask(instance, endpoint) == metadata.instance_id
            assert metadata.log[-1].headers["host"] == host


def test_ipv4_is_asked_where_both_answer(instance: Machine) -> None:
    for address in (METADATA_ADDRESS, METADATA_IPV6):
        on_loopback(instance, address)
    with served(instance, [METADATA_ADDRESS, METADATA_IPV6]) as metadata:
        assert ask(instance, "auto") == metadata.instance_id
        assert {request.headers["host"] for request in metadata.log} == {METADATA_ADDRESS}


@pytest.mark.parametrize("blocked", [4, 6])
def test_an_address_whose_packets_vanish_costs_no_lookup_its_deadline(
    blocked: int, instance: Machine
) -> None:
    if problem := link.obstacle():
        support.lacking(f"a link between machines ({problem})", "modprobe tun")
    both = [METADATA_ADDRESS, METADATA_IPV6]
    with (
        network.machine() as far,
        link.link(instance, far, ["172.31.0.10", "fd00::10"], both) as way,
        served(far, both) as metadata,
    ):
        way.loses = lambda packet: packet.version == blocked
        assert ask(instance, "auto", LOOKUP_S) == metadata.instance_id
        assert {r.headers["host"] for r in metadata.log} == {
            "[fd00:ec2::254]" if blocked == 4 else METADATA_ADDRESS
        }


def test_a_lost_connection_attempt_costs_no_lookup_its_deadline(instance: Machine) -> None:
    """Of the first connection no packet ever arrives, however often the kernel repeats it."""
    if problem := link.obstacle():
        support.lacking(f"a link between machines ({problem})", "modprobe tun")
    with (
        network.machine() as far,
        link.link(instance, far, ["172.31.0.10"], [METADATA_ADDRESS]) as way,
        served(far, [METADATA_ADDRESS]) as metadata,
    ):
        first: list[int] = []

        def of_the_first(packet: link.Packet) -> bool:
            if packet.outward and packet.ports[0] and not first:
                first.append(packet.ports[0])
            return packet.outward and packet.ports[0] in first

        way.loses = of_the_first
        assert ask(instance, "ipv4", LOOKUP_S) == metadata.instance_id
        assert way.lost


def test_a_kept_alive_connection_that_died_silently_costs_a_new_one(instance: Machine) -> None:
    """As when a firewall between has forgotten it: its packets vanish, nobody resets it."""
    if problem := link.obstacle():
        support.lacking(f"a link between machines ({problem})", "modprobe tun")
    with (
        network.machine() as far,
        link.link(instance, far, ["172.31.0.10"], [METADATA_ADDRESS]) as way,
        served(far, [METADATA_ADDRESS]) as metadata,
    ):
        client = MetadataClient("ipv4", timeout_s=1.0)
        seen: set[int] = set()

        def note(packet: link.Packet) -> bool:
            if packet.outward:
                seen.add(packet.ports[0])
            return False

        way.loses = note
        region = instance.call(lambda: client.region(Deadline.after(PLENTY_S)))
        way.loses = lambda packet: bool(seen & set(packet.ports))
        assert instance.call(lambda: client.region(Deadline.after(LOOKUP_S))) == region
        client.close()
        assert metadata.server.connections_accepted == 2


def test_a_machine_without_a_route_learns_it_at_once(instance: Machine) -> None:
    client = MetadataClient("auto")
    with pytest.raises(MetadataUnavailable, match="Network is unreachable") as caught:
        instance.call(lambda: client.region(Deadline.after(PLENTY_S)))
    assert not isinstance(caught.value, MetadataUnreachable), "would be tried again"

"""A simulated service for each test, and clients that are closed after it."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_agent.metadata.endpoints import endpoint_addresses
from eic_agent.metadata.exchange import Answer, Service
from eic_sandbox.simulator import MetadataSimulator
from tests.metadata.service import PLENTY_S, Ask, MakeClient


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


@pytest.fixture(name="ask")
def one_request(sim: MetadataSimulator, url: str) -> Iterator[Ask]:
    """Ask the simulator for a path, once and without a token."""
    sim.token_required = False
    service = Service(endpoint_addresses(url), lambda: None)

    def ask(path: str, timeout_s: float = PLENTY_S, cap: int = 1 << 20) -> Answer:
        return service.ask("GET", path, {}, cap, Deadline.after(timeout_s))

    yield ask
    service.close()

"""A simulated service for each test, and clients that are closed after it."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from eic_agent.metadata.client import MetadataClient
from eic_sandbox.simulator import MetadataSimulator
from tests.metadata.service import PLENTY_S, MakeClient


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

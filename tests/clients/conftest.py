"""One sandbox for all clients, and one wait for all their keys to expire.

The files are run in the order of their names: every client's login first, the wait last.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.late import Late, running_late
from tests.clients.site import Identity, Site, running_site


@dataclass(frozen=True)
class Used:
    """A key that a client got in with, and when it expires, by the system's clock."""

    identity: Identity
    ends: float


@pytest.fixture(scope="package")
def used() -> dict[str, Used]:
    """The key of each client that got in, by the client's name."""
    return {}


@pytest.fixture(scope="package")
def late(site: Site) -> Iterator[Late]:
    """Start mssh and msftp, and hold them up between their push and their login."""
    with running_late(site) as late:
        yield late


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    # Not pytest's own directory: sshd may run the agent as a user who cannot enter that.
    with tempfile.TemporaryDirectory(prefix="eic-clients-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with running_site(directory) as site:
            yield site

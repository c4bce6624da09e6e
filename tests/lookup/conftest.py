"""One simulated instance for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lookup.rig import Rig, make_rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Serve a simulated instance on which alice has a key."""
    with make_rig(tmp_path) as made:
        yield made

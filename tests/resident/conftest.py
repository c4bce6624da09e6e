"""What the tests of the service share."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.resident.process import Agent, agent_in

StartAgent = Callable[..., Agent]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user may enter, as the agent's is."""
    path = Path(tempfile.mkdtemp(prefix="eic-agent-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(directory: Path) -> Iterator[StartAgent]:
    """Starts an agent in the directory, with the configuration given."""
    with contextlib.ExitStack() as stack:
        yield lambda **config: stack.enter_context(agent_in(directory, **config))

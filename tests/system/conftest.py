"""Images and machines that the tests of this directory share."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system import images
from tests.system.machine import Machine


@pytest.fixture(scope="session")
def _images() -> Iterator[dict[str, "Future[Path]"]]:
    """Every image, built side by side in the background where it is not in the cache."""
    images.ready()
    with contextlib.ExitStack() as held, ThreadPoolExecutor() as builders:
        yield {
            name: builders.submit(held.enter_context, images.image(recipe))
            for name, recipe in images.RECIPES.items()
        }


@pytest.fixture(scope="session", params=sorted(images.RECIPES))
def release(request: pytest.FixtureRequest) -> str:
    """Debian's release, each in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def boot(release: str, _images: dict[str, "Future[Path]"]) -> Callable[[str], Machine]:
    """Give a machine of this release, which boots as it is entered."""
    return functools.partial(Machine, _images[release].result())


@pytest.fixture(scope="module")
def plain(boot: Callable[[str], Machine]) -> Iterator[Machine]:
    """A booted machine without the agent, for tests that leave it as it was."""
    with boot("plain") as machine:
        yield machine

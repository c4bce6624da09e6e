"""Images and machines that the tests of this directory share."""

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.machine import images, packages
from tests.machine.instance import Instance, simulated
from tests.machine.machine import Machine


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
def image(release: str, _images: dict[str, "Future[Path]"]) -> Path:
    """The root file system of this release, without the agent."""
    return _images[release].result()


@pytest.fixture(scope="module")
def plain(image: Path) -> Iterator[Machine]:
    """A booted machine without the agent, for tests that leave it as it was."""
    with Machine("plain", image) as machine:
        yield machine


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package under test."""
    images.ready()
    return packages.built_deb(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def installed(image: Path, deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What installing the package leaves in the file system, to be laid over the image."""
    layer = tmp_path_factory.mktemp("layer") / "installed"
    with Machine("installed", image) as machine:
        machine.copy_in(deb, "/run-once/eic-agent.deb")
        machine.run("apt-get", "install", "--yes", "/run-once/eic-agent.deb")
        machine.run("rm", "-r", "/run-once")
        machine.power_off()
        machine.save(layer)
    yield layer
    shutil.rmtree(layer)


@pytest.fixture
def instance(installed: Path, image: Path, tmp_path: Path) -> Iterator[Instance]:
    """An instance of one's own with the agent installed, booted and otherwise untouched."""
    with Machine("agent", installed, image) as machine, simulated(machine, tmp_path) as instance:
        yield instance


@pytest.fixture
def fresh(image: Path, tmp_path: Path) -> Iterator[Instance]:
    """An instance whose agent is yet to be installed, configured by what is known beforehand."""
    with Machine("fresh", image) as machine, simulated(machine, tmp_path) as instance:
        yield instance


@pytest.fixture(scope="session")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package under test, and the same built as an earlier version."""
    images.ready()
    return (
        packages.built_rpm(tmp_path_factory.mktemp("rpm")),
        packages.built_rpm(tmp_path_factory.mktemp("earlier"), "--version=0.0.1"),
    )

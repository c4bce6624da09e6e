"""The locked wheels, the bundle and the packages made of them, once for all tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stage
from build import DEBIAN_ARCHITECTURES
from wheels import ARCHITECTURES, ROOT

from eic_agent import __version__
from tests.packages import RPM_PYTHON
from tests.support import lacking, program


@pytest.fixture(scope="session")
def wheels_directory() -> Path:
    """The locked wheels, downloaded where they are not in the cache."""
    directory = ROOT / ".cache" / "wheels"
    command = [sys.executable, str(ROOT / "packaging" / "wheels.py"), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lacking(f"the locked wheels ({done.stderr.strip()})", "make lock, with network")
    return directory


@pytest.fixture(scope="session")
def build(wheels_directory: Path) -> Callable[..., None]:
    """Run build.py with these arguments and this environment."""

    def run(*arguments: str | Path, **environment: str) -> None:
        command = [sys.executable, str(ROOT / "packaging" / "build.py"), *map(str, arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | environment,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="session")
def bundles(wheels_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundle for each architecture."""
    program("strip", "binutils")
    program("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu")
    made = {}
    for architecture in ARCHITECTURES:
        made[architecture] = tmp_path_factory.mktemp("bundle") / architecture
        stage.stage_bundle(made[architecture], wheels_directory, architecture)
    return made


@pytest.fixture(scope="session")
def debs(build: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages, by architecture."""
    program("dpkg-buildpackage", "dpkg-dev debhelper")
    program("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu")
    output = tmp_path_factory.mktemp("debs")
    build("deb", "--output", output)
    return {
        name: output / f"eic-agent_{__version__}_{name}.deb"
        for name in DEBIAN_ARCHITECTURES.values()
    }


@pytest.fixture(scope="session")
def rpms(build: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages by architecture, with `noarch` the one of the SELinux policy, and `src`."""
    program("rpmbuild", "rpm")
    program("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu")
    program(RPM_PYTHON, RPM_PYTHON)
    program("checkmodule", "selinux-policy-dev")
    directory = tmp_path_factory.mktemp("rpms")
    build("rpm", "--python", RPM_PYTHON, "--output", directory)
    return {path.suffixes[-2][1:]: path for path in directory.glob("*.rpm")}

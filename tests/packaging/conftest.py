"""The locked wheels, and the bundle made of them, once for all tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stage
from wheels import ARCHITECTURES, ROOT

from tests.support import lacking


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
    made = {}
    for architecture in ARCHITECTURES:
        made[architecture] = tmp_path_factory.mktemp("bundle") / architecture
        stage.stage_bundle(made[architecture], wheels_directory, architecture)
    return made

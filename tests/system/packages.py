"""The packages under test, built from this tree."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests import support

TREE = Path(__file__).parents[2]


def built_deb(directory: Path) -> Path:
    """Build the deb for this machine's architecture; or return what EIC_TEST_DEB names."""
    if given := os.environ.get("EIC_TEST_DEB"):
        return Path(given)
    support.program("dh", "debhelper")
    return _built("deb", directory)


def _built(kind: str, directory: Path) -> Path:
    options = (f"--architecture={platform.machine()}", f"--output={directory}")
    subprocess.run([sys.executable, TREE / "packaging/build.py", kind, *options], check=True)
    (package,) = directory.iterdir()
    return package


def as_version(deb: Path, version: str, directory: Path) -> Path:
    """Return the same package under another version, as an earlier or a later build of it."""
    unpacked = directory / f"unpacked-{version}"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, unpacked], check=True)
    control = unpacked / "DEBIAN/control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text(
        "".join(f"Version: {version}\n" if x.startswith("Version:") else x for x in lines)
    )
    package = directory / f"eic-agent_{version}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", unpacked, package],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    shutil.rmtree(unpacked)
    return package

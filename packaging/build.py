"""Builds the packages, `deb` or `rpm`, for every architecture.

What git tracks, as it is in the working tree, and the locked wheels are copied to a directory of
their own, where the distribution's tools build. The same input gives the same bytes: every time
stamp is that of the last commit, or SOURCE_DATE_EPOCH where that is set.
"""

import argparse
import email.utils
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wheels import ARCHITECTURES, ROOT, PackagingError, fetch, locked_wheels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def project_version() -> str:
    """Read the version that pyproject.toml has."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def epoch() -> int:
    """Tell the time stamp for everything, in seconds since the epoch."""
    said = os.environ.get("SOURCE_DATE_EPOCH") or _output("git", "log", "-1", "--format=%ct")
    return int(said)


def _output(*command: str) -> str:
    ran = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return ran.stdout


def _run(*command: str, cwd: Path, **environment: str) -> None:
    """Run a program that a package tool is made of; its output is shown only where it fails."""
    missing = PackagingError(f"needs the program {command[0]}")
    if shutil.which(command[0]) is None:
        raise missing
    locale = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(epoch())}
    ran = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=os.environ | locale | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if ran.returncode != 0:
        raise PackagingError(f"{' '.join(command)} failed:\n{ran.stdout}")


def _copy_sources(destination: Path) -> None:
    """Copy what git tracks, and the wheels for every architecture to `wheels`."""
    for name in _output("git", "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, destination / name)
            (destination / name).chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
    (destination / "wheels").mkdir()
    for architecture in ARCHITECTURES:
        for wheel in locked_wheels(ROOT / ".cache" / "wheels", architecture):
            shutil.copy2(wheel, destination / "wheels" / wheel.name)


def build_deb(work: Path, version: str, architecture: str) -> Path:
    """Build the deb for one architecture."""
    name = DEBIAN_ARCHITECTURES[architecture]
    source = work / name / "eic-agent"
    source.mkdir(parents=True)
    _copy_sources(source)
    shutil.move(source / "packaging" / "debian", source / "debian")
    (source / "debian" / "changelog").write_text(
        f"eic-agent ({version}) unstable; urgency=medium\n\n"
        f"  * Version {version}.\n\n"
        " -- eic-agent maintainers <maintainers@eic-agent.invalid>  "
        f"{email.utils.formatdate(epoch())}\n"
    )
    # For the other architecture no compiler is missing: nothing is compiled.
    options = ["--build=binary", "--no-sign", f"--host-arch={name}", "--no-check-builddeps"]
    _run("dpkg-buildpackage", *options, cwd=source)
    return source.parent / f"eic-agent_{version}_{name}.deb"


def main() -> None:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("kind", choices=("deb",))
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="(default: dist)")
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, action="append", help="(default: every one)"
    )
    parser.add_argument("--version", help="(default: that of pyproject.toml)")
    arguments = parser.parse_args()
    version = arguments.version or project_version()
    try:
        fetch(ROOT / ".cache" / "wheels")
        arguments.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor() as pool:
            build = functools.partial(build_deb, Path(work), version)
            for made in pool.map(build, arguments.architecture or ARCHITECTURES):
                shutil.copyfile(made, arguments.output / made.name)
                print(arguments.output / made.name)  # noqa: T201 - says what was made
    except (PackagingError, subprocess.CalledProcessError) as error:
        sys.exit(f"packaging/build.py: {error}")


if __name__ == "__main__":
    main()

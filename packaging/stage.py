"""Lays out below DESTDIR what the packages install, the same for deb and rpm.

The bundle in /usr/lib/eic-agent is the agent with its locked dependencies, without what is not
needed to run. Needs the standard library and binutils alone, and no network. Every time stamp is
SOURCE_DATE_EPOCH, which must be set.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePath, PurePosixPath

from wheels import ARCHITECTURES, ROOT, PackagingError, locked_wheels

BUNDLE = "usr/lib/eic-agent"
SKELETON = ROOT / "packaging" / "skeleton"

# What of a wheel is installed: its modules, and what tells people and scanners its version and
# licence. Not among it are certifi's certificates: the agent speaks to the metadata service alone,
# without TLS, and a list that ages in a package might be taken for one that counts.
_KEPT_SUFFIXES = (".py", ".so")
_KEPT_OF_DIST_INFO = ("METADATA", "licenses", "sboms")
_NOT_NEEDED = (
    "cffi/",  # compiles bindings; a module that is compiled needs _cffi_backend alone
    "urllib3/contrib/emscripten/",  # for Python inside a browser
)

# Source, destination, mode. What is in the skeleton has its destination as its path there.
_FILES = (
    ("eic_agent/client.py", "usr/libexec/eic-agent/eic-authorized-keys", 0o755),
    ("eic_agent/client_chain.py", "usr/libexec/eic-agent/client_chain.py", 0o644),
    ("eic_agent/client_fallback.py", "usr/libexec/eic-agent/client_fallback.py", 0o644),
    ("systemd/eic-agent.preset", "usr/lib/systemd/system-preset/90-eic-agent.preset", 0o644),
    ("systemd/eic-agent.service", "usr/lib/systemd/system/eic-agent.service", 0o644),
    ("systemd/eic-agent.socket", "usr/lib/systemd/system/eic-agent.socket", 0o644),
    (
        "systemd/eic-agent-standby.service",
        "usr/lib/systemd/system/eic-agent-standby.service",
        0o644,
    ),
    ("systemd/eic-agent-standby.socket", "usr/lib/systemd/system/eic-agent-standby.socket", 0o644),
    ("systemd/eic-agent.sysusers", "usr/lib/sysusers.d/eic-agent.conf", 0o644),
)
_EXECUTABLE = ("usr/bin/eic-agent",)
_DIRECTORIES = ("etc/eic-agent/config.d",)


def stage_bundle(destination: Path, wheels: Path, architecture: str) -> None:
    """Put the agent and its dependencies for one architecture into an empty directory."""
    for wheel in locked_wheels(wheels, architecture):
        _unpack(wheel, destination)
    _strip(destination, architecture)
    package = ROOT / "eic_agent"
    for path in sorted({*package.rglob("*.py"), *package.glob("data/*.*")}):
        content = _module(path, path.read_bytes())
        _install(content, destination / path.relative_to(ROOT), 0o644)


def _unpack(wheel: Path, destination: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(".data"):
                raise PackagingError(f"{wheel.name}: cannot be installed by copying: {name}")
            if name.endswith("/") or not _is_kept(path):
                continue
            content, target = _module(path, archive.read(name)), destination / path
            if target.exists() and target.read_bytes() != content:
                raise PackagingError(f"{wheel.name}: another wheel brings a different {name}")
            _install(content, target, 0o644)


def _module(path: PurePath, content: bytes) -> bytes:
    """Make a comment of the first line of a program that here is only imported."""
    return b"#" + content if path.suffix == ".py" and content.startswith(b"#!") else content


def strip_program(architecture: str) -> str:
    """Name the program that strips this architecture's machine code; raises PackagingError."""
    strip = f"{architecture}-linux-gnu-strip"
    if shutil.which(strip) is not None:
        return strip
    if platform.machine() == architecture and shutil.which("strip") is not None:
        return "strip"
    package = f"binutils-{architecture.replace('_', '-')}-linux-gnu"
    raise PackagingError(f"needs {strip}; install it with: apt-get install {package}")


def _strip(bundle: Path, architecture: str) -> None:
    """Drop the symbols that only debuggers read; what is loaded stays as it is."""
    strip = strip_program(architecture)
    options = ["--strip-unneeded", "--remove-section=.comment"]
    subprocess.run([strip, *options, *sorted(bundle.rglob("*.so"))], check=True)


def _is_kept(path: PurePosixPath) -> bool:
    if path.parts[0].endswith(".dist-info"):
        return path.parts[1] in _KEPT_OF_DIST_INFO if len(path.parts) > 1 else False
    if "tests" in path.parts:
        return False
    return path.suffix in _KEPT_SUFFIXES and not str(path).startswith(_NOT_NEEDED)


def _install(content: bytes, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(mode)


def stage(destdir: Path, wheels: Path, architecture: str, interpreter: str) -> None:
    """Lay out everything below DESTDIR; the launcher runs under this interpreter."""
    stage_bundle(destdir / BUNDLE, wheels, architecture)
    for source, target, mode in _FILES:
        _install((ROOT / source).read_bytes(), destdir / target, mode)
    for path in sorted(SKELETON.rglob("*")):
        if path.is_file():
            target = str(path.relative_to(SKELETON))
            content = path.read_bytes().replace(b"@INTERPRETER@", interpreter.encode())
            _install(content, destdir / target, 0o755 if target in _EXECUTABLE else 0o644)
    for directory in _DIRECTORIES:
        (destdir / directory).mkdir(parents=True)


def byte_compile(destdir: Path, interpreter: str) -> None:
    """Compile the bundle for one interpreter, bound to no time stamp and no build path."""
    command = [interpreter, "-s", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(destdir), "-p", "/", str(destdir / BUNDLE)]
    # Sets among the constants are written in the order of their hashes.
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "0"})


def settle(destdir: Path, epoch: int) -> None:
    """Give every directory its mode, and everything the same time stamp."""
    for path in [destdir, *destdir.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (epoch, epoch))


def main() -> None:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("destdir", type=Path)
    parser.add_argument(
        "--wheels", type=Path, required=True, help="directory that holds the locked wheels"
    )
    parser.add_argument("--architecture", choices=ARCHITECTURES, required=True)
    parser.add_argument(
        "--interpreter",
        default="/usr/bin/python3",
        help="what runs the agent (default: %(default)s)",
    )
    parser.add_argument(
        "--byte-compile", metavar="PYTHON", help="this Python compiles the bundle for itself"
    )
    arguments = parser.parse_args()
    try:
        epoch = int(os.environ["SOURCE_DATE_EPOCH"])
        stage(arguments.destdir, arguments.wheels, arguments.architecture, arguments.interpreter)
        if arguments.byte_compile:
            byte_compile(arguments.destdir, arguments.byte_compile)
        settle(arguments.destdir, epoch)
    except KeyError as missing:
        sys.exit(f"packaging/stage.py: set {missing}, to what `git log -1 --format=%ct` says")
    except PackagingError as error:
        sys.exit(f"packaging/stage.py: {error}")


if __name__ == "__main__":
    main()

"""The wheels that requirements.lock names: reads the lock file, and puts them into a directory.

Asks the package index that pip is configured for, and only where a wheel is missing; none is taken
but by its SHA-256. Needs nothing but the standard library where all are there.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "packaging" / "requirements.lock"

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
ARCHITECTURES = ("x86_64", "aarch64")
GLIBC = ("manylinux_2_28", "manylinux2014")
# Taken as machine code: one wheel for each Python, or one for all. All else as pure Python.
FOR_EACH_PYTHON = ("cffi",)
FOR_STABLE_ABI = ("cryptography",)

_ENTRY = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ \\]+)(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)$"
)


class PackagingError(Exception):
    """What is missing or wrong, for whoever builds the packages."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One entry of the lock file."""

    name: str
    version: str
    hashes: frozenset[str]


def read_lock(path: Path = LOCK) -> tuple[Locked, ...]:
    """Read the entries of a lock file; raises PackagingError where a line is not one."""
    entries = []
    text = re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    for line in re.sub(r" \\\n +", " ", text).split("\n"):
        if not line:
            continue
        entry = _ENTRY.match(line)
        if entry is None:
            raise PackagingError(f"{path}: no `name==version --hash=sha256:...`: {line}")
        hashes = frozenset(re.findall(r"sha256:(\w+)", entry["hashes"]))
        entries.append(Locked(entry["name"], entry["version"], hashes))
    return tuple(entries)


def locked_wheels(directory: Path, architecture: str) -> tuple[Path, ...]:
    """Find the locked wheels for one architecture; raises PackagingError where one is missing."""
    by_hash = wheels_by_hash(directory)
    found = []
    for entry in read_lock():
        missing = entry.hashes - by_hash.keys()
        if missing:
            raise PackagingError(
                f"{directory} lacks the wheel of {entry.name} {entry.version} whose SHA-256 is "
                f"{min(missing)}; get all with: python packaging/wheels.py {directory}"
            )
        for wheel in (by_hash[digest] for digest in entry.hashes):
            name, version, _python, _abi, platform = wheel.stem.split("-")
            if (name.replace("_", "-"), version) != (entry.name, entry.version):
                raise PackagingError(f"{entry.name} {entry.version} is locked as {wheel.name}")
            if platform == "any" or platform.endswith(f"_{architecture}"):
                found.append(wheel)
    return tuple(sorted(found))


def wheels_by_hash(directory: Path) -> dict[str, Path]:
    """Find the wheels in a directory by their SHA-256."""
    return {sha256(path): path for path in sorted(directory.glob("*.whl"))}


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(directory: Path) -> None:
    """Make the directory hold every locked wheel."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = read_lock()
    if frozenset().union(*(entry.hashes for entry in entries)) <= wheels_by_hash(directory).keys():
        return
    requirements = [
        f"{entry.name}=={entry.version}"
        + "".join(f" --hash=sha256:{digest}" for digest in sorted(entry.hashes))
        for entry in entries
    ]
    with tempfile.TemporaryDirectory(dir=directory) as fresh:
        download(requirements, Path(fresh), ["--require-hashes"])
        for path in Path(fresh).iterdir():
            path.replace(directory / path.name)
    for architecture in ARCHITECTURES:
        locked_wheels(directory, architecture)


def download(requirements: Iterable[str], directory: Path, options: Sequence[str] = ()) -> None:
    """Let pip download the wheels of these requirements, and of nothing that they require."""

    def pip(names: Iterable[str], python: str, target: Sequence[str]) -> None:
        listing = directory / "wanted.txt"
        listing.write_text("\n".join(by_name[name] for name in names), "utf-8")
        command = [sys.executable, "-m", "pip", "--quiet", "download", "--only-binary=:all:"]
        command += ["--no-deps", f"--dest={directory}", f"--python-version={python}"]
        command += [*target, *options, f"--requirement={listing}"]
        subprocess.run(command, check=True)
        listing.unlink()

    by_name = {requirement.partition("==")[0]: requirement for requirement in requirements}
    pure = by_name.keys() - {*FOR_EACH_PYTHON, *FOR_STABLE_ABI}
    pip(sorted(pure), PYTHONS[0], ["--implementation=py", "--abi=none", "--platform=any"])
    for architecture in ARCHITECTURES:
        platforms = [f"--platform={glibc}_{architecture}" for glibc in GLIBC]
        pip(FOR_STABLE_ABI, PYTHONS[0], platforms)
        for python in PYTHONS:
            pip(FOR_EACH_PYTHON, python, platforms)


def main() -> None:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("directory", type=Path, help="made to hold every locked wheel")
    try:
        fetch(parser.parse_args().directory)
    except (PackagingError, subprocess.CalledProcessError) as error:
        sys.exit(f"packaging/wheels.py: {error}")


if __name__ == "__main__":
    main()

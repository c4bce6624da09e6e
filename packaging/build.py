"""Builds the packages, `deb` or `rpm`, for every architecture.

What git tracks, as it is in the working tree, and the locked wheels are copied to a directory of
their own, where the distribution's tools build. The same input gives the same bytes: every time
stamp is that of the last commit, or SOURCE_DATE_EPOCH where that is set.
"""

import argparse
import email.utils
import functools
import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stage import strip_program
from wheels import ARCHITECTURES, ROOT, PackagingError, fetch, locked_wheels

# Programs, or files at a path, with the Debian package that each is in.
DEB_NEEDS = (("dpkg-buildpackage", "dpkg-dev"), ("dh", "debhelper"))
RPM_NEEDS = (
    ("rpmbuild", "rpm"),
    ("bzip2", "bzip2"),
    ("make", "make"),
    ("/usr/share/selinux/devel/Makefile", "selinux-policy-dev"),
)
DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def project_version() -> str:
    """Read the version where it is written, without importing what the package imports."""
    text = (ROOT / "eic_agent" / "__init__.py").read_text("utf-8")
    [version] = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return str(version)


def epoch() -> int:
    """Tell the time stamp for everything, in seconds since the epoch."""
    said = os.environ.get("SOURCE_DATE_EPOCH") or _output("git", "log", "-1", "--format=%ct")
    return int(said)


def _output(*command: str) -> str:
    ran = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return ran.stdout


def _require(needed: Sequence[tuple[str, str]]) -> None:
    """Say in one line all that is not on this machine, and how it is installed."""
    missing = [one for one in needed if shutil.which(one[0]) is None and not _is_file(one[0])]
    if missing:
        names, packages = (", ".join(sorted({*column})) for column in zip(*missing, strict=True))
        install = packages.replace(", ", " ")
        raise PackagingError(f"needs {names}; install what is missing: apt-get install {install}")


def _is_file(what: str) -> bool:
    return Path(what).is_absolute() and Path(what).is_file()


def buildable(wanted: Sequence[str] | None) -> list[str]:
    """Choose the architectures: those that are wanted, or else all whose binutils are here.

    Raises PackagingError where one that is wanted, or every one, cannot be built here.
    """
    found, reasons = [], []
    for architecture in wanted or ARCHITECTURES:
        try:
            strip_program(architecture)
        except PackagingError as error:
            reasons.append(f"{DEBIAN_ARCHITECTURES[architecture]} {error}")
        else:
            found.append(architecture)
    if reasons and (wanted or not found):
        raise PackagingError("; ".join(reasons))
    for reason in reasons:
        print(f"packaging/build.py: left out: {reason}", file=sys.stderr)  # noqa: T201
    return found


def _run(*command: str, cwd: Path, **environment: str) -> None:
    """Run a program that a package tool is made of; its output is shown only where it fails."""
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


def build_deb(work: Path, version: str, architecture: str) -> list[Path]:
    """Build the deb for one architecture."""
    name = DEBIAN_ARCHITECTURES[architecture]
    source = work / name / "eic-agent"
    source.mkdir(parents=True)
    _copy_sources(source)
    shutil.move(source / "packaging" / "deb", source / "debian")
    (source / "debian" / "changelog").write_text(
        f"eic-agent ({version}) unstable; urgency=medium\n\n"
        f"  * Version {version}.\n\n"
        " -- eic-agent maintainers <maintainers@eic-agent.invalid>  "
        f"{email.utils.formatdate(epoch())}\n"
    )
    # For the other architecture no compiler is missing: nothing is compiled.
    options = ["--build=binary", "--no-sign", f"--host-arch={name}", "--no-check-builddeps"]
    _run("dpkg-buildpackage", *options, cwd=source)
    return [source.parent / f"eic-agent_{version}_{name}.deb"]


def build_rpm(work: Path, version: str, python: str, architecture: str) -> list[Path]:
    """Build the rpms for one architecture, and the source rpm that other machines can rebuild."""
    top, name = work / architecture, f"eic-agent-{version}"
    source = top / "SOURCES" / name
    source.mkdir(parents=True)
    _copy_sources(source)
    _pack(source)
    spec = (source / "packaging" / "rpm" / "eic-agent.spec").read_text("utf-8")
    date = time.strftime("%a %b %d %Y", time.gmtime(epoch()))
    spec = spec.replace("@VERSION@", version).replace("@DATE@", date)
    (top / "SOURCES" / "eic-agent.spec").write_text(spec, "utf-8")

    def rpmbuild(kind: str, **macros: str) -> None:
        macros |= {
            "eic_python": python,
            "_buildhost": "reproducible",
            "clamp_mtime_to_source_date_epoch": "1",
            "use_source_date_epoch_as_buildtime": "1",
        }
        # What BuildRequires names is found by those who run into its absence.
        options = [kind, "--nodeps", f"--target={architecture}-linux"]
        options += [f"--define={macro} {value}" for macro, value in macros.items()]
        _run("rpmbuild", *options, "eic-agent.spec", cwd=top / "SOURCES")

    rpmbuild("-bb", _topdir=str(top))
    # A source rpm holds the spec with its macros expanded, so there they name no true directory.
    rpmbuild("-bs", _topdir="/nowhere", _sourcedir=".", _srcrpmdir=str(top / "SRPMS"))
    return sorted([*(top / "RPMS").rglob("*.rpm"), *(top / "SRPMS").glob("*.rpm")])


def _pack(directory: Path) -> None:
    """Write DIRECTORY.tar.gz, the same for the same content."""

    def settled(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime, member.uid, member.gid, member.uname, member.gname = epoch(), 0, 0, "", ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with (
        directory.with_name(directory.name + ".tar.gz").open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed,
        tarfile.open(mode="w", fileobj=compressed) as archive,
    ):
        archive.add(directory, directory.name, filter=settled)


def main() -> None:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("kind", choices=("deb", "rpm"))
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="(default: dist)")
    parser.add_argument(
        "--architecture",
        choices=ARCHITECTURES,
        action="append",
        help="(default: every one that this machine has the binutils for)",
    )
    parser.add_argument(
        "--python",
        default="python3.11",
        help="what runs the agent of the rpms: python3.11 is in Amazon Linux 2023 and "
        "Enterprise Linux 9, python3.12 is the one of Enterprise Linux 10 (default: %(default)s)",
    )
    parser.add_argument("--version", help="(default: that of eic_agent/__init__.py)")
    arguments = parser.parse_args()
    version = arguments.version or project_version()
    try:
        python = (arguments.python, arguments.python)
        _require(DEB_NEEDS if arguments.kind == "deb" else (*RPM_NEEDS, python))
        architectures = buildable(arguments.architecture)
        fetch(ROOT / ".cache" / "wheels")
        arguments.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor() as pool:
            build = functools.partial(build_deb, Path(work), version)
            if arguments.kind == "rpm":
                build = functools.partial(build_rpm, Path(work), version, arguments.python)
            built = pool.map(build, architectures)
            # Of what is for no architecture, all builds make one; the first is taken.
            made = {path.name: path for paths in reversed([*built]) for path in paths}
            for name, path in sorted(made.items()):
                shutil.copyfile(path, arguments.output / name)
                print(arguments.output / name)  # noqa: T201 - says what was made
    except (PackagingError, subprocess.CalledProcessError) as error:
        sys.exit(f"packaging/build.py: {error}")


if __name__ == "__main__":
    main()

"""The Debian packages, looked at by Debian's own programs."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from build import DEBIAN_ARCHITECTURES

from eic_agent import __version__
from tests.packages import elf
from tests.packages.programs import output
from tests.support import program

ARCHITECTURE = {debian: name for name, debian in DEBIAN_ARCHITECTURES.items()}

# All that is installed outside of the bundle.
INSTALLED = {
    "etc/eic-agent/config.toml",
    "usr/bin/eic-agent",
    "usr/lib/systemd/catalog/eic-agent.catalog",
    "usr/lib/systemd/system/eic-agent-standby.service",
    "usr/lib/systemd/system/eic-agent-standby.socket",
    "usr/lib/systemd/system/eic-agent.service",
    "usr/lib/systemd/system/eic-agent.socket",
    "usr/lib/sysusers.d/eic-agent.conf",
    "usr/libexec/eic-agent/client_chain.py",
    "usr/libexec/eic-agent/client_fallback.py",
    "usr/libexec/eic-agent/eic-authorized-keys",
    "usr/share/bash-completion/completions/eic-agent",
    "usr/share/doc/eic-agent/changelog.gz",
    "usr/share/doc/eic-agent/copyright",
    "usr/share/man/man5/eic-agent.toml.5.gz",
    "usr/share/man/man8/eic-agent.8.gz",
    "usr/share/man/man8/eic-authorized-keys.8.gz",
    "usr/share/python3/runtime.d/eic-agent.rtupdate",
}
EXECUTABLE = {
    "usr/bin/eic-agent",
    "usr/libexec/eic-agent/eic-authorized-keys",
    "usr/share/python3/runtime.d/eic-agent.rtupdate",
}


@pytest.fixture(scope="session", params=sorted(ARCHITECTURE))
def architecture(request: pytest.FixtureRequest) -> str:
    """Debian's name of each architecture, in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def deb(architecture: str, debs: dict[str, Path]) -> Path:
    """Each package, in turn."""
    return debs[architecture]


@pytest.fixture(scope="session")
def tree(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package installs."""
    unpacked = tmp_path_factory.mktemp("tree")
    output("dpkg-deb", "--extract", deb, unpacked)
    return unpacked


def _installed(tree: Path) -> Iterator[str]:
    """Every path that is no directory, without its leading slash."""
    return (
        str(path.relative_to(tree))
        for path in tree.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def test_lintian_has_nothing_to_say(deb: Path) -> None:
    lintian = program("lintian", "lintian")
    options = ["--allow-root"] if os.geteuid() == 0 else []
    assert output(lintian, *options, "--show-overrides", deb) == ""


def test_its_fields_say_what_it_fits(deb: Path, architecture: str) -> None:
    def field(name: str) -> str:
        return output("dpkg-deb", "--field", deb, name).strip()

    assert (field("Package"), field("Version")) == ("eic-agent", __version__)
    assert field("Architecture") == architecture
    assert {"python3 (>= 3.10)", "python3 (<< 3.15)"} <= set(field("Depends").split(", "))
    assert {field(name) for name in ("Conflicts", "Provides", "Replaces")} == {
        "ec2-instance-connect"
    }


def test_it_is_small(deb: Path) -> None:
    assert deb.stat().st_size <= 10_000_000
    assert int(output("dpkg-deb", "--field", deb, "Installed-Size")) <= 40_000


def test_nothing_is_installed_but_what_belongs_there(tree: Path) -> None:
    found = set(_installed(tree))
    assert {name for name in found if not name.startswith("usr/lib/eic-agent/")} == INSTALLED
    assert not [name for name in found if name.endswith(".pyc")]
    assert (tree / "etc/eic-agent/config.d").is_dir()


def test_everything_is_roots_and_nobody_else_may_write(deb: Path, tree: Path) -> None:
    """Sshd runs nothing below a directory of somebody else's."""
    owners = {line.split()[1] for line in output("dpkg-deb", "--contents", deb).splitlines()}
    assert owners == {"root/root"}
    for path in tree.rglob("*"):
        name = str(path.relative_to(tree))
        mode = 0o755 if path.is_dir() or name in EXECUTABLE else 0o644
        assert stat.S_IMODE(path.lstat().st_mode) == mode, name


def test_the_configuration_is_a_conffile(deb: Path) -> None:
    assert output("dpkg-deb", "--info", deb, "conffiles").split() == ["/etc/eic-agent/config.toml"]


def test_the_machine_code_that_is_loaded_is_the_wheels(
    tree: Path, architecture: str, wheels_directory: Path
) -> None:
    original = elf.from_wheels(wheels_directory, ARCHITECTURE[architecture])
    found = {path.name: path.read_bytes() for path in tree.rglob("*.so")}
    assert found.keys() == original.keys()
    for name, content in found.items():
        assert elf.loaded(content) == elf.loaded(original[name])


def test_it_depends_on_the_libraries_that_the_machine_code_needs(deb: Path, tree: Path) -> None:
    needed: dict[str, set[tuple[int, ...]]] = {}
    libraries = set()
    for path in tree.rglob("*.so"):
        symbols = output(program("readelf", "binutils"), "--dynamic", "--version-info", path)
        libraries |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", symbols))
        for library, version in re.findall(r"Name: (GLIBC|GCC)_([0-9.]+) ", symbols):
            needed.setdefault(library, set()).add(tuple(map(int, version.split("."))))
    glibc = {"libc.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2"}
    assert libraries - glibc == {"libgcc_s.so.1"}
    depends = output("dpkg-deb", "--field", deb, "Depends")
    for package, library in (("libc6", "GLIBC"), ("libgcc-s1", "GCC")):
        allowed = re.search(rf"{package} \(>= ([0-9.]+)\)", depends)
        assert allowed
        assert max(needed[library]) <= tuple(map(int, allowed[1].split(".")))


def test_another_build_elsewhere_gives_the_same_bytes(
    build: Callable[..., None], debs: dict[str, Path], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "another place"
    elsewhere.mkdir()
    build(
        *("deb", "--output", tmp_path, "--architecture", "x86_64"),
        TMPDIR=str(elsewhere),
        TZ="Pacific/Auckland",
        LC_ALL="C",
        PYTHONHASHSEED="7",
    )
    assert (tmp_path / debs["amd64"].name).read_bytes() == debs["amd64"].read_bytes()


def test_no_path_of_the_building_machine_is_inside(debs: dict[str, Path], tmp_path: Path) -> None:
    """Where the wheels were built, theirs were; that is not this machine."""
    output("dpkg-deb", "--raw-extract", debs["amd64"], tmp_path / "tree")
    root = str(Path(__file__).resolve().parents[2]).encode()
    for path in (tmp_path / "tree").rglob("*"):
        if path.is_file() and path.suffix != ".so":
            assert root not in path.read_bytes(), path
            assert b"/tmp/tmp" not in path.read_bytes(), path

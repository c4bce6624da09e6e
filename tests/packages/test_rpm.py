"""The rpm packages, looked at by rpm's own programs, and their scripts run against stand-ins."""

import io
import os
import platform
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from wheels import ARCHITECTURES, ROOT

from eic_agent import __version__
from tests.packages import RPM_PYTHON as PYTHON
from tests.packages import elf
from tests.packages.programs import output
from tests.support import program

SPEC = ROOT / "packaging" / "rpm" / "eic-agent.spec"

# All that is installed outside of the bundle.
INSTALLED = {
    "/etc/eic-agent": 0o755,
    "/etc/eic-agent/config.d": 0o755,
    "/etc/eic-agent/config.toml": 0o644,
    "/etc/eic-agent/sshd-disabled": 0o644,
    "/etc/eic-agent/sshd-enabled": 0o644,
    "/usr/bin/eic-agent": 0o755,
    "/usr/lib/systemd/catalog/eic-agent.catalog": 0o644,
    "/usr/lib/systemd/system-preset/90-eic-agent.preset": 0o644,
    "/usr/lib/systemd/system/eic-agent-standby.service": 0o644,
    "/usr/lib/systemd/system/eic-agent-standby.socket": 0o644,
    "/usr/lib/systemd/system/eic-agent.service": 0o644,
    "/usr/lib/systemd/system/eic-agent.socket": 0o644,
    "/usr/lib/sysusers.d/eic-agent.conf": 0o644,
    "/usr/libexec/eic-agent": 0o755,
    "/usr/libexec/eic-agent/client_chain.py": 0o644,
    "/usr/libexec/eic-agent/client_fallback.py": 0o644,
    "/usr/libexec/eic-agent/eic-authorized-keys": 0o755,
    "/usr/share/bash-completion/completions/eic-agent": 0o644,
    f"/usr/share/licenses/eic-agent-{__version__}": 0o755,
    f"/usr/share/licenses/eic-agent-{__version__}/LICENSE": 0o644,
    "/usr/share/man/man5/eic-agent.toml.5.gz": 0o644,
    "/usr/share/man/man8/eic-agent.8.gz": 0o644,
    "/usr/share/man/man8/eic-authorized-keys.8.gz": 0o644,
}


@pytest.fixture(scope="session", params=ARCHITECTURES)
def rpm(request: pytest.FixtureRequest, rpms: dict[str, Path]) -> Path:
    """The package for each architecture, in turn."""
    return rpms[request.param]


def _query(rpm: Path, format_: str) -> str:
    return output("rpm", "--query", "--package", f"--queryformat={format_}", rpm)


def _contents(rpm: Path) -> dict[str, bytes]:
    """Every file of a package with what is in it, by its path."""
    archive = subprocess.run(
        [program("rpm2archive", "rpm"), "-"],
        input=rpm.read_bytes(),
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return {
            member.name.removeprefix("."): extracted.read()
            for member in files
            if (extracted := files.extractfile(member))
        }


@pytest.fixture(scope="session")
def contents(rpm: Path) -> dict[str, bytes]:
    """What is in each package, in turn."""
    return _contents(rpm)


def test_rpmlint_has_nothing_to_say(rpms: dict[str, Path]) -> None:
    config = ROOT / "packaging" / "rpm" / "rpmlint.toml"
    said = output(program("rpmlint", "rpmlint"), "--config", config, *rpms.values())
    assert "4 packages and 0 specfiles checked; 0 errors, 0 warnings" in said
    assert not re.search(r"^\S+: [EWI]: ", said, flags=re.MULTILINE)


def test_there_is_a_package_for_each_architecture_one_with_the_policy_and_the_source(
    rpms: dict[str, Path],
) -> None:
    assert rpms.keys() == {*ARCHITECTURES, "noarch", "src"}
    assert {_query(path, "%{version}") for path in rpms.values()} == {__version__}


def test_it_requires_the_python_that_it_is_compiled_for(rpm: Path) -> None:
    requires = _query(rpm, "[%{requirename}\n]").splitlines()
    assert f"({PYTHON} >= 3.10 with {PYTHON} < 3.15)" in requires
    assert f"/usr/bin/{PYTHON}" in requires
    assert f"(eic-agent-selinux = {__version__}-1 if selinux-policy-targeted)" in requires


def test_it_replaces_the_package_that_it_stands_in_for(rpm: Path) -> None:
    assert "ec2-instance-connect" in _query(rpm, "[%{conflicts}\n]").splitlines()
    assert "ec2-instance-connect < 3" in _query(rpm, "[%{obsoletenevrs}\n]").splitlines()
    provides = _query(rpm, "[%{providenevrs}\n]").splitlines()
    assert "ec2-instance-connect = 3" in provides
    assert not [name for name in provides if ".so" in name]


def test_it_is_small(rpm: Path) -> None:
    assert rpm.stat().st_size <= 10_000_000
    assert int(_query(rpm, "%{size}")) <= 40_000_000


def test_nothing_is_installed_but_what_belongs_there(rpm: Path) -> None:
    lines = _query(rpm, "[%{filenames} %{filemodes:octal} %{fileusername}:%{filegroupname}\n]")
    modes, owners = {}, set()
    for line in lines.splitlines():
        path, mode, owner = line.split()
        modes[path] = int(mode, 8) & 0o7777
        owners.add(owner)
    bundle = {path: modes.pop(path) for path in [*modes] if path.startswith("/usr/lib/eic-agent")}
    assert modes == INSTALLED
    assert owners == {"root:root"}
    assert set(bundle.values()) == {0o755, 0o644}


def test_what_an_administrator_changes_is_kept(rpm: Path) -> None:
    flags = dict(
        line.split()
        for line in _query(rpm, "[%{filenames} %{fileflags:fflags}\n]").splitlines()
        if len(line.split()) == 2
    )
    assert flags["/etc/eic-agent/config.toml"] == "cn"
    assert flags["/etc/eic-agent/sshd-disabled"] == "g"


def test_every_module_is_compiled_and_bound_to_no_time_stamp(contents: dict[str, bytes]) -> None:
    modules = [path for path in contents if path.endswith(".py") and "/lib/eic-agent/" in path]
    tag = PYTHON.replace("python", "cpython-").replace(".", "")
    for path in modules:
        directory, _, name = path.rpartition("/")
        compiled = contents[f"{directory}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"]
        assert compiled[4:8] == b"\1\0\0\0", path  # PEP 552: by a hash that is not checked
        assert path.encode() in compiled
    assert len(modules) == len([path for path in contents if path.endswith(".pyc")])


def test_the_launcher_runs_the_python_that_it_is_compiled_for(contents: dict[str, bytes]) -> None:
    assert contents["/usr/bin/eic-agent"].startswith(f"#!/usr/bin/{PYTHON} -ISB\n".encode())


def test_the_machine_code_that_is_loaded_is_the_wheels(
    rpms: dict[str, Path], wheels_directory: Path
) -> None:
    for architecture in ARCHITECTURES:
        original = elf.from_wheels(wheels_directory, architecture)
        files = _contents(rpms[architecture]).items()
        found = {path.rpartition("/")[2]: data for path, data in files if path.endswith(".so")}
        assert found.keys() == original.keys()
        for name, content in found.items():
            assert elf.loaded(content) == elf.loaded(original[name])


def test_no_path_of_the_building_machine_is_inside(contents: dict[str, bytes]) -> None:
    for path, content in contents.items():
        if not path.endswith(".so"):
            assert str(ROOT).encode() not in content, path
            assert b"BUILDROOT" not in content, path


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the source package is of x86_64")
def test_another_machine_gets_the_same_bytes_from_the_source_package(
    rpms: dict[str, Path], tmp_path: Path
) -> None:
    time = _query(rpms["x86_64"], "%{buildtime}")
    macros = {
        "_topdir": tmp_path,
        "_buildhost": "reproducible",
        "eic_python": PYTHON,
        "use_source_date_epoch_as_buildtime": 1,
    }
    defines = [f"--define={name} {value}" for name, value in macros.items()]
    sources = tmp_path / "SOURCES"
    sources.mkdir()
    for name, content in _contents(rpms["src"]).items():
        (sources / name.rpartition("/")[2]).write_bytes(content)
    done = subprocess.run(
        ["rpmbuild", "-bb", "--nodeps", *defines, sources / "eic-agent.spec"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"SOURCE_DATE_EPOCH": time, "TZ": "Pacific/Auckland", "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    for built in tmp_path.glob("RPMS/*/*.rpm"):
        original = next(path for path in rpms.values() if path.name == built.name)
        assert built.read_bytes() == original.read_bytes()
    assert len([*tmp_path.glob("RPMS/*/*.rpm")]) == 2


@pytest.fixture
def script(rpms: dict[str, Path], tmp_path: Path) -> Callable[..., list[str]]:
    """Run one of the package's scripts, and return the commands that it called.

    Each of them ends with `status`. What would be rpm's number of installed instances is `count`.
    """
    for name in ("eic-agent", "systemctl", "systemd-sysusers", "rmdir"):
        stand_in = tmp_path / name
        stand_in.write_text(f'#!/bin/sh\necho "{name} $*" >> "$CALLS"\nexit "$STATUS"\n')
        stand_in.chmod(0o755)

    def run(which: str, count: int, status: int = 0) -> list[str]:
        body = _query(rpms["x86_64"], f"%{{{which}}}")
        calls = tmp_path / "calls"
        calls.write_text("")
        subprocess.run(
            [
                *("unshare", "--user", "--map-root-user", "--mount"),
                "sh",
                "-ec",
                body,
                "sh",
                str(count),
            ]
            if os.geteuid()
            else ["sh", "-ec", body, "sh", str(count)],
            check=True,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls), "STATUS": str(status)},
            stderr=subprocess.DEVNULL,
        )
        return calls.read_text().splitlines()

    return run


@pytest.mark.parametrize("status", [0, 1])
def test_the_first_installation_enables_the_units_and_then_wires_sshd(
    script: Callable[..., list[str]], status: int
) -> None:
    """Also where every step fails, the installation does not."""
    preset = "systemctl --no-reload preset eic-agent.socket eic-agent.service"
    assert preset in script("postin", 1, status)
    assert script("posttrans", 1, status) == ["eic-agent sshd enable --unless-disabled"]


def test_an_upgrade_leaves_to_the_administrator_what_is_enabled(
    script: Callable[..., list[str]],
) -> None:
    assert not [call for call in script("postin", 2) if re.search(r"preset|enable|\bstart ", call)]
    assert script("preun", 1) == []
    assert script("postun", 1) == []


@pytest.mark.parametrize("status", [0, 1])
def test_a_removal_undoes_the_wiring_before_anything_else(
    script: Callable[..., list[str]], status: int
) -> None:
    assert script("preun", 0, status)[0] == "eic-agent sshd disable --for-removal"


def test_sshd_is_wired_when_it_is_installed_later(rpms: dict[str, Path]) -> None:
    triggers = output("rpm", "--query", "--package", "--filetriggers", rpms["x86_64"])
    assert re.search(r"^transfiletriggerin .*-- /usr/sbin/sshd$", triggers, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("distribution", "python"),
    [
        ("amzn 2023", "python3.11"),
        ("rhel 9", "python3.11"),
        ("rhel 10", "python3"),
        ("fedora 42", "python3"),
    ],
)
def test_each_distribution_gets_the_python_that_it_has(
    rpms: dict[str, Path], tmp_path: Path, distribution: str, python: str
) -> None:
    spec = tmp_path / "eic-agent.spec"
    spec.write_bytes(next(v for k, v in _contents(rpms["src"]).items() if k.endswith(".spec")))
    rpmspec = ["rpmspec", "--query", f"--define={distribution}", "--target=x86_64"]
    requires = output(*rpmspec, "--requires", "--srpm", spec).split()
    assert python in requires
    assert f"({python} >= 3.10 with {python} < 3.15)" in output(*rpmspec, "--requires", spec)

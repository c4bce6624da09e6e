"""What a release is made of, and what is no release."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import build as build_module
import pytest
import release
import sbom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from wheels import ARCHITECTURES, ROOT, PackagingError, read_lock

from eic_agent import __version__
from tests.packages.programs import output
from tests.support import program

CHANGELOG = """\
# Changelog

## [Unreleased]

### Added

- Something.

## [1.2.3] - 2026-01-31

### Fixed

- What was broken.

## [1.2.2]

- No date.

## [1.2.1] - 2026-01-01

"""


def repository(directory: Path) -> Path:
    directory.mkdir()
    who = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.invalid"]
    for words in (["init", "--quiet"], [*who, "commit", "--quiet", "--allow-empty", "-m", "It."]):
        subprocess.run(["git", *words], cwd=directory, check=True)
    return directory


def test_what_is_not_committed_is_not_released(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    release.check_clean(tree)
    (tree / "forgotten.py").touch()
    with pytest.raises(PackagingError, match=r"this is in none:\n.*forgotten\.py"):
        release.check_clean(tree)


def test_the_changelog_must_have_a_dated_section_that_says_something() -> None:
    assert release.changelog_section(CHANGELOG, "1.2.3") == "### Fixed\n\n- What was broken."
    for version in ("1.2.2", "9.9.9", "1.2", "Unreleased"):
        with pytest.raises(PackagingError, match="has no section"):
            release.changelog_section(CHANGELOG, version)
    with pytest.raises(PackagingError, match="says nothing below"):
        release.changelog_section(CHANGELOG, "1.2.1")


def test_a_package_that_is_not_reproduced_stops_the_release(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
        (directory / "a.deb").write_bytes(b"the same")
        (directory / "b.rpm").write_bytes(b"the same")
    assert release.check_reproduced(first, second) == ["a.deb", "b.rpm"]
    (second / "b.rpm").write_bytes(b"not same")
    with pytest.raises(PackagingError, match=r"byte for byte: b\.rpm"):
        release.check_reproduced(first, second)
    (second / "b.rpm").unlink()
    with pytest.raises(PackagingError, match="other packages"):
        release.check_reproduced(first, second)


def test_the_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"content")
    (tmp_path / "b.deb").write_bytes(b"other")
    release.write_sums(tmp_path)
    command = ["sha256sum", "--strict", "--check", release.SUMS]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert len((tmp_path / release.SUMS).read_text().splitlines()) == 2
    (tmp_path / "a.deb").write_bytes(b"changed")
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_bill_of_materials_names_all_that_is_bundled(
    architecture: str, wheels_directory: Path
) -> None:
    text = sbom.bill_of_materials(wheels_directory, architecture, "1.2.3", 1_700_000_000)
    assert text == sbom.bill_of_materials(wheels_directory, architecture, "1.2.3", 1_700_000_000)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    named = {(one["name"], one["version"]) for one in bill["components"]}
    assert named == {(one.name, one.version) for one in read_lock()}
    hashes = {entry.name: entry.hashes for entry in read_lock()}
    for component in bill["components"]:
        of_wheels = {one["content"] for one in component["hashes"]}
        assert of_wheels
        assert of_wheels <= hashes[component["name"]]
        assert component["licenses"]
    [inside] = [one["components"] for one in bill["components"] if one["name"] == "cryptography"]
    openssl = [one for one in inside if one["purl"].startswith("pkg:generic/openssl@")]
    assert openssl, "OpenSSL is what most advisories are about"
    assert {one["purl"].partition("/")[0] for one in inside} == {"pkg:cargo", "pkg:generic"}


def test_there_is_one_version(tmp_path: Path) -> None:
    """The command's, the wheel's, and that of the packages; test_deb and test_rpm read theirs."""
    said = output(sys.executable, "-m", "eic_agent", "--version", PYTHONPATH=str(ROOT))
    assert said == f"eic-agent {__version__}\n"
    assert build_module.project_version() == __version__
    # A copy: setuptools leaves a directory build where it builds, which is in git's and ruff's way.
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "eic_agent", tree / "eic_agent")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    make = f"import setuptools.build_meta as backend; backend.build_wheel({str(tmp_path)!r})"
    made = subprocess.run(
        [sys.executable, "-c", make],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"eic_agent-{__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in metadata
    links = dict(re.findall(r"^Project-URL: (.+), (.+)$", metadata, flags=re.MULTILINE))
    assert {"Homepage", "Changelog", "Security"} <= links.keys()


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave nothing in PATH but these programs."""

    def leave(*names: str) -> None:
        directory = tmp_path / "bin"
        directory.mkdir()
        for name in names:
            (directory / name).symlink_to(program("true", "coreutils"))
        monkeypatch.setenv("PATH", str(directory))

    return leave


def test_without_the_other_architectures_binutils_this_ones_package_is_built(
    only: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    only("x86_64-linux-gnu-strip")
    assert build_module.buildable(None) == ["x86_64"]
    assert capsys.readouterr().err == (
        "packaging/build.py: left out: arm64 needs aarch64-linux-gnu-strip; "
        "install it with: apt-get install binutils-aarch64-linux-gnu\n"
    )
    with pytest.raises(PackagingError, match=r"^arm64 needs aarch64-linux-gnu-strip"):
        build_module.buildable(["x86_64", "aarch64"])


@pytest.mark.parametrize(
    ("kind", "needs", "install"),
    [
        ("deb", "dh, dpkg-buildpackage", "debhelper dpkg-dev"),
        ("rpm", "bzip2, make, python3.99, rpmbuild", "bzip2 make python3.99 rpm"),
    ],
)
def test_all_that_is_missing_is_said_in_one_line(
    kind: str, needs: str, install: str, only: Callable[..., None]
) -> None:
    only("x86_64-linux-gnu-strip")
    command = [sys.executable, str(ROOT / "packaging/build.py"), kind, "--python=python3.99"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"packaging/build.py: needs {needs}; install what is missing: apt-get install {install}"
    assert (done.returncode, done.stderr) == (1, f"{said}\n")


def test_the_licences_of_all_that_is_bundled_are_named(wheels_directory: Path) -> None:
    """In the rpm's License, and for Debian wheel by wheel."""
    spec = (ROOT / "packaging/rpm/eic-agent.spec").read_text()
    tag, _of_the_policy = re.findall(r"^License: +(.+)$", spec, flags=re.MULTILINE)
    copyright_file = (ROOT / "packaging/deb/copyright").read_text()
    text = sbom.bill_of_materials(wheels_directory, ARCHITECTURES[0], "1.2.3", 1_700_000_000)
    for component in json.loads(text)["components"]:
        [licence] = component["licenses"]
        named = licence.get("expression") or licence["license"]["id"]
        alternatives = set(named.split(" OR "))
        assert alternatives & set(tag.split(" AND ")), f"{component['name']} is under {named}"
        wheel = component["name"].replace("-", "_")
        assert f"\nFiles: wheels/{wheel}-*\n" in copyright_file, wheel

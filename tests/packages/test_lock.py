"""The lock file, as it is in the repository."""

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheels import (
    ARCHITECTURES,
    FOR_EACH_PYTHON,
    LOCK,
    PYTHONS,
    ROOT,
    PackagingError,
    locked_wheels,
    read_lock,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = LOCK.read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OLDEST = {"python_version": PYTHONS[0], "python_full_version": f"{PYTHONS[0]}.0", "extra": ""}


def test_it_was_made_for_the_dependencies_that_pyproject_has_now() -> None:
    """Else `make lock` is due."""
    asked = re.findall(r"^#   (.*)$", TEXT, flags=re.MULTILINE)
    assert asked == sorted(PYPROJECT["dependencies"])
    locked = {entry.name: entry.version for entry in read_lock()}
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])
    assert f">={PYTHONS[0]}" == PYPROJECT["requires-python"]


def test_the_dependencies_of_every_wheel_are_locked_too(bundles: dict[str, Path]) -> None:
    """All but pycparser, which cffi asks for and nothing uses at run time."""
    locked = {entry.name: entry.version for entry in read_lock()}
    for bundle in bundles.values():
        for metadata in bundle.glob("*.dist-info/METADATA"):
            header = metadata.read_text("utf-8").split("\n\n")[0]
            for line in re.findall(r"^Requires-Dist: (.*)$", header, flags=re.MULTILINE):
                requirement = Requirement(line)
                name = canonicalize_name(requirement.name)
                if requirement.marker and not requirement.marker.evaluate(OLDEST):
                    continue
                if name != "pycparser":
                    assert requirement.specifier.contains(locked[name]), metadata.parent.name


def test_it_is_sorted_and_names_no_host() -> None:
    names = [entry.name for entry in read_lock()]
    assert names == sorted(set(names))
    assert not re.search(r"://|--(extra-)?index|--find-links", TEXT)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_is_one_wheel_of_each_and_of_some_one_for_each_python(
    architecture: str, wheels_directory: Path
) -> None:
    found = [wheel.name.split("-") for wheel in locked_wheels(wheels_directory, architecture)]
    for entry in read_lock():
        tags = [python for name, _, python, *_ in found if name.replace("_", "-") == entry.name]
        if entry.name in FOR_EACH_PYTHON:
            assert tags == ["cp" + python.replace(".", "") for python in PYTHONS]
        else:
            assert len(tags) == 1


@pytest.mark.parametrize(
    "line",
    [
        "requests==2.32.0",
        "requests>=2.32.0 --hash=sha256:" + "0" * 64,
        "requests==2.32.0 --hash=sha256:" + "0" * 63,
        "requests==2.32.0 --hash=md5:" + "0" * 32,
        "--index-url=anything",
    ],
)
def test_an_entry_without_version_or_hash_is_refused(line: str, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(line + "\n")
    with pytest.raises(PackagingError, match="no `name==version"):
        read_lock(lock)


def test_a_wheel_that_was_changed_does_not_count(wheels_directory: Path, tmp_path: Path) -> None:
    for wheel in wheels_directory.glob("*.whl"):
        (tmp_path / wheel.name).symlink_to(wheel)
    changed = next(tmp_path.glob("idna-*.whl"))
    content = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(content + b"\0")
    with pytest.raises(PackagingError, match="lacks the wheel of idna"):
        locked_wheels(tmp_path, "x86_64")

"""Says whether what is locked lags behind a security advisory, and so does `make lock-check`.

advisories.toml names the advisories: no network is asked, so the answer is the same everywhere and
for every commit. RELEASING.md says how the list is kept.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version
from wheels import LOCK, ROOT, Locked, PackagingError, read_lock

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ADVISORIES = ROOT / "packaging" / "advisories.toml"
PYPROJECT = ROOT / "pyproject.toml"
_KEYS = {"package", "fixed-in", "id", "about"}
_FLOORS = (">=", "==", "~=")


@dataclass(frozen=True, slots=True)
class Advisory:
    """One published vulnerability: every version before `fixed_in` counts as affected."""

    package: NormalizedName
    fixed_in: Version
    id: str
    about: str


def read_advisories(path: Path = ADVISORIES) -> tuple[Advisory, ...]:
    """Read the list; raises PackagingError where an entry is not one."""
    document = tomllib.loads(path.read_text("utf-8"))
    entries = document.pop("advisory", [])
    if document:
        raise PackagingError(f"{path}: knows [[advisory]] alone, not {min(document)}")
    found = []
    for entry in entries:
        if entry.keys() != _KEYS or not all(isinstance(text, str) for text in entry.values()):
            raise PackagingError(f"{path}: an advisory has the texts {sorted(_KEYS)}: {entry}")
        try:
            fixed_in = Version(entry["fixed-in"])
        except InvalidVersion as error:
            raise PackagingError(f"{path}: {entry['id']}: fixed-in: {error}") from error
        package = canonicalize_name(entry["package"])
        found.append(Advisory(package, fixed_in, entry["id"], entry["about"]))
    return tuple(found)


def lagging(locked: Iterable[Locked], advisories: Iterable[Advisory]) -> Iterator[str]:
    """Say of each locked version which advisory it lags behind."""
    versions = {canonicalize_name(entry.name): Version(entry.version) for entry in locked}
    for advisory in advisories:
        version = versions.get(advisory.package)
        if version is not None and version < advisory.fixed_in:
            yield (
                f"{advisory.package} is locked at {version}, and {advisory.id} "
                f"({advisory.about}) is fixed in {advisory.fixed_in}"
            )


def low_floors(dependencies: Iterable[str], advisories: Iterable[Advisory]) -> Iterator[str]:
    """Say of each dependency whose floor lets in a version that an advisory names."""
    required = {canonicalize_name(one.name): one for one in map(Requirement, dependencies)}
    for advisory in advisories:
        requirement = required.get(advisory.package)
        if requirement is None:
            continue
        floors = [Version(one.version) for one in requirement.specifier if one.operator in _FLOORS]
        if max(floors, default=Version("0")) < advisory.fixed_in:
            yield (
                f"{requirement} admits versions below {advisory.fixed_in}, "
                f"which fixes {advisory.id} ({advisory.about})"
            )


def main() -> None:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--pyproject", type=Path, default=PYPROJECT)
    parser.add_argument("--advisories", type=Path, default=ADVISORIES)
    arguments = parser.parse_args()
    try:
        advisories = read_advisories(arguments.advisories)
        dependencies = tomllib.loads(arguments.pyproject.read_text("utf-8"))["project"]
        problems = [
            *(f"{line}; run: make lock" for line in lagging(read_lock(arguments.lock), advisories)),
            *(
                f"{line}; raise the floor in pyproject.toml, then run: make lock"
                for line in low_floors(dependencies["dependencies"], advisories)
            ),
        ]
    except (PackagingError, OSError, tomllib.TOMLDecodeError) as error:
        sys.exit(f"packaging/advisories.py: {error}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

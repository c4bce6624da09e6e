"""Does all of a release but publishing it: `make release-check`, and RELEASING.md.

Refuses a tree with changes, and a version that the changelog does not know. Then builds every
package twice, from two fresh clones in different places, and leaves in the output directory the
packages, a bill of materials for each architecture, and SHA256SUMS, which names all of it.
"""

import argparse
import filecmp
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from build import DEBIAN_ARCHITECTURES, epoch, project_version
from sbom import bill_of_materials
from wheels import ARCHITECTURES, ROOT, PackagingError, fetch, sha256

SUMS = "SHA256SUMS"
KINDS = ("deb", "rpm")
_WHEELS = Path(".cache") / "wheels"
# The second build is made under other circumstances: none of these may show in a package.
_ELSEWHERE = {"TZ": "Pacific/Auckland", "LANG": "C", "PYTHONHASHSEED": "7"}


def check_clean(root: Path = ROOT) -> None:
    """Refuse what is not committed; raises PackagingError."""
    changes = _output("git", "status", "--porcelain", cwd=root)
    if changes:
        raise PackagingError(f"what is released is a commit, and this is in none:\n{changes}")


def changelog_section(text: str, version: str) -> str:
    """Give the section of a version; raises PackagingError where it is missing, dateless or empty.

    The format is that of Keep a Changelog 1.1.0: `## [1.2.3] - 2026-01-31`.
    """
    heading = f"## [{version}]"
    section = re.search(
        rf"^{re.escape(heading)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)",
        text,
        re.MULTILINE | re.DOTALL,
    )
    if section is None:
        raise PackagingError(f"CHANGELOG.md has no section `{heading} - YYYY-MM-DD`")
    if not section[1].strip():
        raise PackagingError(f"CHANGELOG.md says nothing below `{heading}`")
    return section[1].strip()


def check_reproduced(first: Path, second: Path) -> list[str]:
    """Compare two directories of packages; raises PackagingError where one file differs."""
    names = sorted(path.name for path in first.iterdir())
    if names != sorted(path.name for path in second.iterdir()):
        raise PackagingError("the second build made other packages than the first")
    _same, differ, unread = filecmp.cmpfiles(first, second, names, shallow=False)
    if differ or unread:
        raise PackagingError(f"not reproduced byte for byte: {', '.join(differ + unread)}")
    return names


def write_sums(directory: Path) -> None:
    """Write SHA256SUMS for all else in a directory, as `sha256sum --check` reads it."""
    files = sorted(path for path in directory.iterdir() if path.name != SUMS)
    lines = [f"{sha256(path)}  {path.name}\n" for path in files]
    (directory / SUMS).write_text("".join(lines), "utf-8")


def write_bills(directory: Path, wheels: Path, version: str) -> None:
    """Write the bill of materials of what the packages for each architecture bundle."""
    for architecture in ARCHITECTURES:
        text = bill_of_materials(wheels, architecture, version, epoch())
        name = f"eic-agent_{version}_{DEBIAN_ARCHITECTURES[architecture]}.cdx.json"
        (directory / name).write_text(text, "utf-8")


def build_twice(output: Path, kinds: list[str], rpm_python: str) -> None:
    """Build every package from two clones, and leave the first build's where both are the same."""
    with tempfile.TemporaryDirectory(prefix="eic-release-") as work:
        directories = []
        for name, environment in (("first", {}), ("a second place", _ELSEWHERE)):
            clone = Path(work) / name
            _output("git", "clone", "--quiet", "--no-local", str(ROOT), str(clone), cwd=ROOT)
            (clone / _WHEELS).parent.mkdir()
            (clone / _WHEELS).symlink_to(ROOT / _WHEELS)
            for kind in kinds:
                _build(clone, kind, rpm_python, environment)
            directories.append(clone / "dist")
        for package in check_reproduced(*directories):
            (directories[0] / package).replace(output / package)


def _build(clone: Path, kind: str, rpm_python: str, environment: dict[str, str]) -> None:
    every = [f"--architecture={one}" for one in ARCHITECTURES]
    settings = [f"{name}={value}" for name, value in environment.items()]
    command = [sys.executable, "packaging/build.py", kind, *every, f"--python={rpm_python}"]
    _output("env", *settings, *command, cwd=clone)


def _output(*command: str, cwd: Path) -> str:
    return subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Run with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="(default: dist)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="(default: both)")
    parser.add_argument("--rpm-python", default="python3.11", help="(default: %(default)s)")
    arguments = parser.parse_args()
    output = arguments.output
    try:
        version = project_version()
        check_clean()
        changelog_section((ROOT / "CHANGELOG.md").read_text("utf-8"), version)
        if output.exists() and any(output.iterdir()):
            raise PackagingError(f"{output} is not empty; remove what is there of earlier builds")
        output.mkdir(parents=True, exist_ok=True)
        fetch(ROOT / _WHEELS)
        build_twice(output, arguments.kind or list(KINDS), arguments.rpm_python)
        write_bills(output, ROOT / _WHEELS, version)
        write_sums(output)
    except (PackagingError, subprocess.CalledProcessError) as error:
        sys.exit(f"packaging/release.py: {error}")
    print(f"eic-agent {version} can be released: {output}")  # noqa: T201 - says what was made


if __name__ == "__main__":
    main()

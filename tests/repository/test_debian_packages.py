"""A machine that has tests/debian-packages.txt installed lacks nothing that a test asks for."""

import ast
from collections.abc import Iterator
from pathlib import Path

import build

ROOT = Path(__file__).parents[2]
LISTED = set((ROOT / "tests/debian-packages.txt").read_text().partition("\n")[2].split())
# No Debian is without them.
ESSENTIAL = {"coreutils", "util-linux"}
APT = "apt-get install "


def asked_for(path: Path) -> Iterator[str]:
    """The packages that a test's file says to install, where it lacks a program or a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or len(node.args) != 2:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        install = node.args[1]
        if not isinstance(install, ast.Constant) or not isinstance(install.value, str):
            continue
        if name in ("program", "find_program"):
            yield from install.value.split()
        elif name == "lacking" and install.value.startswith(APT):
            yield from install.value.removeprefix(APT).partition(",")[0].split()


def test_what_tests_ask_for_is_listed() -> None:
    asked = {
        package: path.name
        for folder in ("tests", "eic_sandbox")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for package in asked_for(path)
    }
    assert len(asked) > 15
    assert {name: asked[name] for name in asked.keys() - LISTED - ESSENTIAL} == {}


def test_what_building_the_packages_takes_is_listed() -> None:
    assert {package for _, package in (*build.DEB_NEEDS, *build.RPM_NEEDS)} <= LISTED

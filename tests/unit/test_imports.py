"""The one-way rule: a room may use those below it, never one above or beside it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eic_agent

PACKAGE = Path(eic_agent.__file__).parent

# From the ground up; the rooms of one line are siblings.
LAYERS = (
    {"errors"},
    {"identity", "keyblock", "ocsp", "trace", "flights"},
    {"trust"},
    {"policy"},
    {"imds", "users", "journal"},
    {"signers"},
    {"authorizer"},
    {"client"},
    {"connection", "listener", "notify"},
    {"service"},
    {"agent", "explain", "status"},
    {"changes", "sshd_files"},
    {"sshd_launch"},
    {"sshd_survey"},
    {"sshd_plan"},
    {"sshd"},
    {"keyoptions"},
    {"schema"},
    {"config"},
    {"cli"},
    {"__main__"},
)
LEVELS = {module: level for level, modules in enumerate(LAYERS) for module in modules}
# What does not follow from the order alone.
ALONE = {"client": set[str](), "client_fallback": set[str]()}
ONLY_USED_BY = {
    "config": {"cli"},
    "schema": {"config"},
    "keyoptions": {"schema"},
    "client": {"connection", "status", "agent", "cli"},
    "cli": {"__main__"},
}
ONLY_IN = {
    "requests": {"imds"},
    "urllib3": {"imds"},
    "pwd": {"users"},
    "grp": {"users"},
    "structlog": {"journal"},
    "cachetools": {"signers"},
    "logging_journald": {"journal"},
    "tomllib": {"config"},
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth, `eic_agent.x` as `eic_agent.x`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "eic_agent":
                yield from (f"eic_agent.{alias.name}" for alias in node.names)
            elif node.module:
                yield node.module


MODULES = sorted(PACKAGE.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_arrows_go_one_way(path: Path) -> None:
    room = path.stem
    own = {name.split(".")[1] for name in imports(path) if name.startswith("eic_agent.")}
    own -= {"__version__"}
    if room == "__init__":
        assert not own
        return
    if room in ALONE:
        assert own == ALONE[room]
        return
    assert room in LEVELS, f"{room} has no place in LAYERS"
    for used in own:
        assert LEVELS[used] < LEVELS[room], f"{room} imports {used}, which is not below it"
        assert room in ONLY_USED_BY.get(used, {room}), f"{room} has no business with {used}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_job_has_one_room(path: Path) -> None:
    for name in imports(path):
        rooms = ONLY_IN.get(name.split(".")[0])
        assert rooms is None or path.stem in rooms, f"{path.stem} imports {name}"


# A lookup in one process, and the first of the resident agent, wait for whatever is imported.
OPERATORS_ONLY = ("sshd", "status", "explain", "doctor", "audit")


def test_a_lookup_does_not_wait_for_what_only_operators_need() -> None:
    show = "import sys, eic_agent.cli; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "eic_agent.service" in loaded
    assert not loaded & {f"eic_agent.{name}" for name in OPERATORS_ONLY}


CLOCKS = {("time", "time"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nobody_but_the_command_line_reads_the_clock(path: Path) -> None:
    called = {
        (node.func.value.id, node.func.attr)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    }
    assert path.stem == "cli" or not called & CLOCKS

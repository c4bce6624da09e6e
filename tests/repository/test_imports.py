"""The floor plan: a room is a folder or a module of the package, and arrows go down only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eic_agent
from eic_agent import entry

PACKAGE = Path(eic_agent.__file__).parent

# From the ground up; rooms of one line are siblings and do not import each other.
ROOMS = (
    {"errors"},
    {"client"},
    {"journal"},
    {"metadata"},
    {"lookup"},
    {"configuration", "resident"},
    {"sshd"},
    {"reports"},
    {"arguments", "composition"},
    {"operators"},
    {"cli"},
    {"entry"},
    {"__main__"},
)
# The same within the rooms whose order matters to a reader.
WITHIN = {
    "journal": ({"entries", "refusals"}, {"outputs"}, {"kept"}, {"writer"}),
    "metadata": (
        {"deadline", "endpoints"},
        {"wire", "tokens", "outage"},
        {"exchange"},
        {"client"},
    ),
    "lookup": (
        {
            "identity",
            "keyblock",
            "certificates",
            "question",
            "trace",
            "flights",
            "accounts",
            "callers",
        },
        {"anchors", "ocsp", "users", "memory"},
        {"trust", "clock"},
        {"policy"},
        {"signers", "outcomes", "record"},
        {"judge"},
        {"authorizer"},
        {"explanation"},
    ),
    "configuration": ({"keyoptions"}, {"schema"}, {"config"}, {"review"}),
    "resident": (
        {"notify", "listener", "connection", "pressure", "upkeep"},
        {"limits", "peers"},
        {"pool", "active"},
        {"connections"},
        {"service"},
        {"agent"},
    ),
    "sshd": (
        {"changes", "lock"},
        {"files"},
        {"launch"},
        {"listeners"},
        {"survey"},
        {"asking"},
        {"plan"},
        {"reload", "status"},
        {"wiring", "access"},
    ),
    "reports": (
        {"wire", "reasons", "reach", "evidence", "cloudtrail", "table", "processes"},
        {"config_check", "journalctl", "rows", "explain", "status"},
        {"grants", "checks/check"},
        {"logins", "checks/sshd", "checks/service", "checks/instance"},
        {"audit", "whoami", "doctor"},
    ),
}
# What does not follow from the order alone.
ALONE = {"client", "client_chain", "client_fallback"}
ONLY_USED_BY = {
    "configuration": {"configuration", "arguments", "composition", "operators", "cli", "reports"},
    "operators": {"cli"},
    "cli": {"entry"},
    "entry": {"__main__"},
}
ONLY_IN = {
    "requests": {"metadata/exchange"},
    "urllib3": {"metadata/exchange"},
    "pwd": {"client_fallback", "lookup/accounts"},
    "grp": {"lookup/accounts"},
    "cachetools": {"lookup/signers"},
    "structlog": {"journal/outputs"},
    "tomllib": {"configuration/config"},
}

MODULES = {
    str(path.relative_to(PACKAGE).with_suffix("")): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}

PACKAGES = {
    ".".join(("eic_agent", *path.relative_to(PACKAGE).parent.parts))
    for path in PACKAGE.rglob("__init__.py")
}


def level_of(name: str, levels: tuple[set[str], ...]) -> int:
    return next(level for level, names in enumerate(levels) if name in names)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth, ours as `room` or `room/module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module or ""]
            if node.module == "eic_agent" or node.module in PACKAGES:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if not name.startswith("eic_agent."):
                yield name
                continue
            _, room, *rest = name.split(".")
            inside = "/".join([room, *rest[:2]])
            if inside not in MODULES:
                inside = "/".join([room, *rest[:1]])
            if inside in MODULES:
                yield inside
            elif room in MODULES:
                yield room
            else:
                assert name == "eic_agent.__version__", name


@pytest.mark.parametrize("name", MODULES)
def test_arrows_go_down(name: str) -> None:
    room, _, module = name.partition("/")
    for used in imports(MODULES[name]):
        used_room, _, used_module = used.partition("/")
        if used not in MODULES:
            continue
        assert room not in ALONE, f"{name} imports {used}, and must stand alone"
        assert room in ONLY_USED_BY.get(used_room, {room}), f"{name} has no business with {used}"
        if room != used_room:
            above, below = level_of(room, ROOMS), level_of(used_room, ROOMS)
            assert below < above, f"{name} imports {used}, which is not below it"
        else:
            levels = WITHIN[room]
            above, below = level_of(module, levels), level_of(used_module, levels)
            assert below < above, f"{name} imports {used}, which is not below it"


def test_every_room_and_module_has_its_place() -> None:
    rooms = {name.partition("/")[0] for name in MODULES}
    assert rooms == set().union(*ROOMS) | ALONE
    for room, levels in WITHIN.items():
        modules = {name.partition("/")[2] for name in MODULES if name.startswith(f"{room}/")}
        assert modules == set().union(*levels), room


@pytest.mark.parametrize("name", MODULES)
def test_each_job_has_one_room(name: str) -> None:
    for used in imports(MODULES[name]):
        rooms = ONLY_IN.get(used.split(".")[0])
        assert rooms is None or {name, name.partition("/")[0]} & rooms, f"{name} imports {used}"


# A lookup in one process, and the first of the resident agent, wait for whatever is imported.
OPERATORS_ONLY = ("sshd", "reports", "operators")


def test_a_lookup_does_not_wait_for_what_only_operators_need() -> None:
    show = "import sys, eic_agent.cli; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "eic_agent.resident.service" in loaded
    assert not loaded & {f"eic_agent.{name}" for name in OPERATORS_ONLY}
    assert not loaded & {"structlog", "asyncio"}  # for lines on stderr alone


def test_what_requests_can_do_without_is_not_imported_and_can_be_later() -> None:
    show = (
        "import sys\n"
        "from eic_agent import entry\n"
        "entry.import_the_rest()\n"
        "print(*sys.modules)\n"
        "import ssl, charset_normalizer\n"
    )
    done = subprocess.run([sys.executable, "-Werror", "-c", show], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = set(done.stdout.split())
    assert "requests" in loaded
    assert not loaded & set(entry.SPARED)


CLOCKS = {("time", "time"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


@pytest.mark.parametrize("name", MODULES)
def test_nobody_but_the_command_line_reads_the_clock(name: str) -> None:
    called = {
        (node.func.value.id, node.func.attr)
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    }
    assert name in ("cli", "operators") or not called & CLOCKS

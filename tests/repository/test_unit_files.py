"""The files for systemd, as systemd itself reads them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from eic_agent.configuration.schema import TABLES
from eic_agent.journal.writer import CLOSE_S
from eic_agent.resident.limits import DEFAULT_LIMITS
from tests.support import lacking, program

UNITS = Path(__file__).parents[2] / "systemd"
KINDS = ("service", "socket")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    path = program(str(command[0]), "systemd")
    return subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with nothing in it but our files, where packages put them."""
    for source, target in (
        ("eic-agent.service", "usr/lib/systemd/system/eic-agent.service"),
        ("eic-agent.socket", "usr/lib/systemd/system/eic-agent.socket"),
        ("eic-agent-standby.service", "usr/lib/systemd/system/eic-agent-standby.service"),
        ("eic-agent-standby.socket", "usr/lib/systemd/system/eic-agent-standby.socket"),
        ("eic-agent.preset", "usr/lib/systemd/system-preset/90-eic-agent.preset"),
        ("eic-agent.sysusers", "usr/lib/sysusers.d/eic-agent.conf"),
    ):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(UNITS / source, tmp_path / target)
    return tmp_path


def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    """The agent is not installed here, so another program stands in for it."""
    names = [f"eic-agent{which}.{kind}" for which in ("", "-standby") for kind in KINDS]
    for name in names:
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(
            text.replace("/usr/bin/eic-agent", program("true", "coreutils"))
        )
    units = [tmp_path / name for name in names]
    done = run("systemd-analyze", "verify", "--man=no", *units)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_is_exposed_by_one_and_a_half_at_most() -> None:
    service = UNITS / "eic-agent.service"
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=15", service)
    if "unrecognized option" in done.stderr:
        lacking("systemd-analyze security --offline", "systemd 250 or later")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level for eic-agent.service" in done.stdout


def settings(name: str, section: str) -> list[str]:
    """What a unit sets in a section, without comments."""
    _, _, text = (UNITS / name).read_text().partition(f"[{section}]\n")
    lines = text.partition("\n[")[0].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_one_that_stands_by_may_no_more_than_the_agent() -> None:
    agent = settings("eic-agent.service", "Service")
    standby = settings("eic-agent-standby.service", "Service")
    assert [line.removesuffix(" --standby") for line in standby] == agent
    agents = settings("eic-agent.socket", "Socket")
    assert settings("eic-agent-standby.socket", "Socket") == [
        line.replace("agent.sock", "standby.sock") for line in agents
    ]


def test_the_service_has_time_to_answer_before_it_is_stopped() -> None:
    longest = next(n for n in range(100, 0, -1) if is_number(TABLES["imds"]["deadline_s"](n)))
    start = next(n for n in range(100, 0, -1) if is_number(TABLES["imds"]["start_s"](n)))
    limits = DEFAULT_LIMITS.request_s + DEFAULT_LIMITS.answer_s + CLOSE_S
    (given,) = [
        line for line in settings("eic-agent.service", "Service") if "TimeoutStopSec" in line
    ]
    assert float(given.partition("=")[2]) > max(longest, start) + limits


def is_number(value: object) -> bool:
    return isinstance(value, float)


def test_sysusers_makes_a_user_who_cannot_log_in(root: Path) -> None:
    (root / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={root}")
    assert done.returncode == 0, done.stderr
    entries = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    [entry] = [entry for entry in entries if entry[0] == "eic-agent"]
    assert entry[6].endswith("/nologin")
    assert int(entry[2]) < 1000
    assert "eic-agent:" in (root / "etc/group").read_text()


def test_the_preset_enables_the_socket_and_the_service(root: Path) -> None:
    done = run("systemctl", f"--root={root}", "preset", "eic-agent.socket", "eic-agent.service")
    assert done.returncode == 0, done.stderr
    wanted = root / "etc/systemd/system"
    assert (wanted / "sockets.target.wants/eic-agent.socket").is_symlink()
    assert (wanted / "multi-user.target.wants/eic-agent.service").is_symlink()


def test_neither_sshd_nor_the_network_waits_for_the_agent_or_it_for_them() -> None:
    lines = (UNITS / "eic-agent.service").read_text().splitlines()
    order = [line for line in lines if line.startswith(("After=", "Before="))]
    assert order == ["After=eic-agent.socket"]

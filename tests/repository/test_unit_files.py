"""The files for systemd, as systemd itself reads them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import lacking, program

UNITS = Path(__file__).parents[2] / "systemd"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    path = program(str(command[0]), "systemd")
    return subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with nothing in it but our files, where packages put them."""
    for source, target in (
        ("eic-agent.service", "usr/lib/systemd/system/eic-agent.service"),
        ("eic-agent.socket", "usr/lib/systemd/system/eic-agent.socket"),
        ("eic-agent.preset", "usr/lib/systemd/system-preset/90-eic-agent.preset"),
        ("eic-agent.sysusers", "usr/lib/sysusers.d/eic-agent.conf"),
    ):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(UNITS / source, tmp_path / target)
    return tmp_path


def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    """The agent is not installed here, so another program stands in for it."""
    for name in ("eic-agent.service", "eic-agent.socket"):
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(
            text.replace("/usr/bin/eic-agent", program("true", "coreutils"))
        )
    units = [tmp_path / "eic-agent.service", tmp_path / "eic-agent.socket"]
    done = run("systemd-analyze", "verify", "--man=no", *units)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_is_exposed_by_one_and_a_half_at_most() -> None:
    service = UNITS / "eic-agent.service"
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=15", service)
    if "unrecognized option" in done.stderr:
        lacking("systemd-analyze security --offline", "systemd 250 or later")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level for eic-agent.service" in done.stdout


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

"""What the tests beside this one take for granted of their machines."""

import subprocess
from pathlib import Path

import pytest

from tests.machine.machine import Machine


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def test_it_boots_the_release_asked_for(plain: Machine, release: str) -> None:
    assert f'VERSION_ID="{release.removeprefix("debian")}"' in plain.sh("cat /etc/os-release")
    assert plain.run("systemctl", "is-system-running").stdout == "running\n"


def test_what_is_logged_inside_is_read_from_outside(plain: Machine) -> None:
    plain.run("logger", "--tag=eic-test", "a line with ünïcode")
    (entry,) = plain.journal("SYSLOG_IDENTIFIER=eic-test")
    assert entry["MESSAGE"] == "a line with ünïcode"


def test_a_key_in_a_file_logs_in_and_no_other(
    plain: Machine, identity: Path, tmp_path: Path
) -> None:
    plain.write("/home/alice/.ssh/authorized_keys", identity.with_suffix(".pub").read_bytes())
    plain.sh("chown -R alice: /home/alice/.ssh")
    assert plain.ssh("alice", identity, "id", "-un").stdout == "alice\n"
    refused = plain.ssh("bob", identity)
    assert refused.returncode == 255
    assert "Permission denied (publickey" in refused.stderr


@pytest.mark.parametrize(("allowed", "connects"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_a_unit_reaches_only_the_addresses_that_it_is_allowed(
    plain: Machine, allowed: str, connects: bool
) -> None:
    connect = "import socket; socket.create_connection(('127.0.0.1', 22), timeout=2)"
    done = plain.run(
        *("systemd-run", "--quiet", "--pipe", "--wait"),
        *("--property=IPAddressDeny=any", f"--property=IPAddressAllow={allowed}"),
        *("python3", "-c", connect),
        check=False,
    )
    assert (done.returncode == 0) == connects, done.stderr


def test_a_machine_has_no_way_out(plain: Machine) -> None:
    links = plain.run("ip", "--brief", "link").stdout.split("\n")
    assert [line.split()[0] for line in links if line] == ["lo"]
    assert plain.run("ip", "route").stdout == ""


def test_a_machine_leaves_nothing_behind(plain: Machine) -> None:
    """Neither what it changed in its image, nor processes, cgroups, mounts or files here."""
    (image,) = plain.layers
    with Machine("passing", image) as passing:
        passing.write("/etc/passed-here", "")
        leader = passing.leader
        kept = [passing.directory, passing.cgroup]
        assert all(path.is_dir() for path in kept)
    assert not Path(f"/proc/{leader}").exists()
    assert not any(path.exists() for path in kept)
    assert str(passing.directory) not in Path("/proc/self/mountinfo").read_text()
    assert not (image / "etc/passed-here").exists()


def test_what_a_machine_wrote_outlives_a_reboot_and_is_saved_for_others(
    plain: Machine, tmp_path: Path
) -> None:
    layer = tmp_path / "layer"
    with Machine("first", *plain.layers) as first:
        first.write("/etc/kept", "kept\n")
        first.run("rm", "/etc/skel/.profile")
        first.reboot()
        assert first.sh("cat /etc/kept") == "kept\n"
        first.power_off()
        first.save(layer)
    with Machine("second", layer, *plain.layers) as second:
        assert second.sh("cat /etc/kept") == "kept\n"
        assert second.run("test", "-e", "/etc/skel/.profile", check=False).returncode == 1

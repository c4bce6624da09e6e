"""The deb on a booted machine: installed, upgraded, removed, purged, beside other commands."""

from pathlib import Path

import pytest

from eic_sandbox.simulator import new_key
from tests.machine.instance import Identity, Instance
from tests.machine.invariants import (
    ACCOUNTS,
    all_the_while,
    effective_sshd,
    sshd_accepts_its_configuration,
)
from tests.machine.machine import Machine, until
from tests.machine.packages import as_version, aws_package
from tests.machine.snapshot import differences, snapshot

# Written by apt and dpkg whatever is installed.
RECORDS = ("/var/log/", "/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/apt/", "/var/cache/debconf/")
SSSD_LIKE = "/usr/local/bin/keys-from-directory"
CLIENT = "/usr/libexec/eic-agent/eic-authorized-keys"


def apt(machine: Machine, *words: str) -> str:
    return machine.run("apt-get", "--yes", *words).stdout


def install(machine: Machine, deb: Path, *options: str) -> None:
    machine.copy_in(deb, "/srv/eic-agent.deb")
    apt(machine, *options, "install", "/srv/eic-agent.deb")


def test_what_is_purged_leaves_only_logs_and_the_system_user(image: Path, deb: Path) -> None:
    with Machine("purged", image) as machine:
        before, sshd_before = snapshot(machine.root), effective_sshd(machine)
        install(machine, deb)
        machine.run(CLIENT, "alice", check=False)
        assert effective_sshd(machine) != sshd_before
        apt(machine, "purge", "eic-agent")
        machine.run("rm", "/srv/eic-agent.deb")
        after = snapshot(machine.root)
        assert differences(before, after, but=(*RECORDS, *ACCOUNTS)) == {}
        assert effective_sshd(machine) == sshd_before
        runtime = machine.sh(
            "find /run /tmp /var/tmp -name '*eic*' -not -path '/run/systemd/units/*'"
        )
        assert runtime == ""
        assert machine.run("systemctl", "is-system-running").stdout == "running\n"


def test_what_is_removed_keeps_its_configuration_and_comes_back_with_it(
    instance: Instance, deb: Path
) -> None:
    machine = instance.machine
    in_file = instance.authorized_in_file("alice")
    with all_the_while("sshd -t", lambda: sshd_accepts_its_configuration(machine)):
        apt(machine, "remove", "eic-agent")
        assert "eic" not in effective_sshd(machine).get("authorizedkeyscommand", "")
        assert in_file.log_in().returncode == 0
        assert instance.push_and_log_in().returncode == 255
        install(machine, deb)
        until(lambda: instance.push_and_log_in().returncode == 0, "logins after the return")
        apt(machine, "--reinstall", "install", "/srv/eic-agent.deb")
        until(lambda: instance.push_and_log_in().returncode == 0, "logins after reinstallation")


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_logins_succeed_all_the_while_another_version_is_installed(
    instance: Instance, deb: Path, tmp_path: Path, direction: str
) -> None:
    machine = instance.machine
    other = as_version(deb, "0.0.1" if direction == "downgrade" else "99.0", tmp_path)
    with (
        all_the_while("login", lambda: instance.push_and_log_in().returncode == 0),
        all_the_while("sshd -t", lambda: sshd_accepts_its_configuration(machine)),
    ):
        install(machine, other, "--allow-downgrades")
    assert instance.push_and_log_in().returncode == 0
    assert instance.decisions()[-1]["_SYSTEMD_UNIT"] == "eic-agent.service"
    assert effective_sshd(machine)["authorizedkeyscommand"].startswith(CLIENT)


def test_what_was_disabled_stays_disabled_across_upgrades(
    instance: Instance, deb: Path, tmp_path: Path
) -> None:
    machine = instance.machine
    machine.run("eic-agent", "sshd", "disable")
    until(lambda: instance.push_and_log_in().returncode == 255, "the end of logins")
    install(machine, as_version(deb, "99.0", tmp_path))
    assert "authorizedkeyscommand none" in machine.sh("sshd -T")
    machine.run("eic-agent", "sshd", "enable")
    until(lambda: instance.push_and_log_in().returncode == 0, "logins")


def test_an_edited_configuration_file_survives_an_upgrade(
    instance: Instance, deb: Path, tmp_path: Path
) -> None:
    machine = instance.machine
    machine.sh("echo '# edited' >> /etc/eic-agent/config.toml")
    install(machine, as_version(deb, "99.0", tmp_path))
    assert machine.sh("tail -n 1 /etc/eic-agent/config.toml") == "# edited\n"


@pytest.mark.parametrize("where", ["main file", "drop-in"])
def test_a_command_that_was_there_before_is_kept_and_comes_back_alone(
    fresh: Instance, deb: Path, where: str
) -> None:
    """Such as SSSD's: its keys log in beside pushed ones, under its own user and arguments."""
    machine = fresh.machine
    theirs = fresh.authorized_in_file("bob")
    machine.run("mv", "/home/bob/.ssh/authorized_keys", "/srv/keys-of-bob")
    machine.write(
        SSSD_LIKE,
        '#!/bin/sh\n[ "$#" = 2 ] && [ "$1" = --for ] && [ "$(id -un)" = nobody ] || exit 1\n'
        'exec cat "/srv/keys-of-$2"\n',
        0o755,
    )
    wiring = f"AuthorizedKeysCommand {SSSD_LIKE} --for %u\nAuthorizedKeysCommandUser nobody\n"
    if where == "main file":
        machine.sh(f"printf '%s' '{wiring}' >> /etc/ssh/sshd_config")
    else:
        machine.write("/etc/ssh/sshd_config.d/50-theirs.conf", wiring)
    machine.run("systemctl", "reload", "ssh.service")
    until(lambda: theirs.log_in().returncode == 0, "sshd to take up its new configuration")
    before = effective_sshd(machine)

    install(machine, deb)
    until(lambda: fresh.push("alice").log_in().returncode == 0, "logins with pushed keys")
    assert theirs.log_in().stdout == "bob\n"
    assert fresh.push("bob").log_in().stdout == "bob\n"
    assert fresh.push("alice").log_in().stdout == "alice\n"
    assert fresh.decisions()[-1]["_SYSTEMD_UNIT"] == "eic-agent.service"

    apt(machine, "purge", "eic-agent")
    assert effective_sshd(machine) == before
    until(lambda: theirs.log_in().stdout == "bob\n", "logins by the other command alone")


def test_one_command_takes_the_place_of_awss_package(
    fresh: Instance, deb: Path, tmp_path: Path
) -> None:
    machine = fresh.machine
    theirs = new_key()
    script = f"#!/bin/sh\necho '{theirs.line}'\n"
    machine.copy_in(aws_package(tmp_path, script), "/srv/aws.deb")
    apt(machine, "install", "/srv/aws.deb")
    with_theirs = Identity(fresh, "alice", theirs)
    assert with_theirs.log_in().stdout == "alice\n"

    install(machine, deb)
    until(lambda: fresh.push_and_log_in().returncode == 0, "logins with pushed keys")
    assert with_theirs.log_in().returncode == 255
    state = machine.run("dpkg-query", "-Wf", "${db:Status-Status}", "ec2-instance-connect").stdout
    assert state != "installed"


def test_a_machine_that_starts_sshd_from_a_socket_is_served_too(fresh: Instance, deb: Path) -> None:
    """With ssh.socket idle there is no /run/sshd, and no ssh.service to be reloaded."""
    machine = fresh.machine
    machine.sh("systemctl disable --now ssh.service; systemctl enable --now ssh.socket")
    machine.run("rm", "-rf", "/run/sshd")
    install(machine, deb)
    assert machine.run("test", "-e", "/run/sshd", check=False).returncode == 1
    assert fresh.push("alice").log_in().stdout == "alice\n"
    apt(machine, "purge", "eic-agent")
    assert machine.run("systemctl", "is-active", "ssh.socket").stdout == "active\n"
    assert fresh.authorized_in_file("alice").log_in().stdout == "alice\n"


def test_an_image_baked_without_systemd_running_works_from_its_first_boot(
    fresh: Instance, deb: Path
) -> None:
    """As image builders do it: apt in a chroot, without host keys, /run and services."""
    machine = fresh.machine
    machine.copy_in(deb, "/srv/eic-agent.deb")
    machine.sh(
        "rm /etc/ssh/ssh_host_*\n"
        "mkdir /run/baked /run/baked/upper /run/baked/work /run/baked/root\n"
        "cd /run/baked\n"
        "mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root\n"
        "chroot root apt-get --yes install /srv/eic-agent.deb\n"
        "umount root\n"
    )
    assert machine.sh("cd /run/baked/upper; find . -name 'ssh_host_*' -type f") == ""
    machine.sh("tar -C /run/baked/upper -c . | tar -C / -x; ssh-keygen -A")
    fresh.reboot()
    assert fresh.push("alice").log_in().stdout == "alice\n"

"""The rpm's payload, scriptlets and units, run by rpm.

No RPM distribution is at hand. Debian 12 has rpm, and Python under the name that the package asks
for; what only rpm's database could know, its dependencies, is left out.
"""

from pathlib import Path

import pytest

from tests.machine.instance import Instance
from tests.machine.invariants import (
    ACCOUNTS,
    all_the_while,
    effective_sshd,
    sshd_accepts_its_configuration,
)
from tests.machine.machine import Machine, until
from tests.machine.snapshot import differences, snapshot

pytestmark = pytest.mark.parametrize("release", ["debian12"], indirect=True)

CLIENT = "/usr/libexec/eic-agent/eic-authorized-keys"
COMMAND = "/opt/aws/bin/eic_run_authorized_keys"
AWS_SPEC = r"""
Name: ec2-instance-connect
Version: {version}
Release: {release}
Summary: stands for AWS's
License: none
BuildArch: noarch
%description
%install
install -D --mode=755 /dev/stdin %{{buildroot}}{command} << 'END'
#!/bin/sh
END
{install}
%files
{command}
{files}
{scriptlets}
"""
# As AWS's package does it on Amazon Linux: in the main file, by its scriptlets.
AMAZON = AWS_SPEC.format(
    version="1.1",
    release="19",
    command=COMMAND,
    install="",
    files="",
    scriptlets=f"""
%post
cat >> /etc/ssh/sshd_config << 'END'
AuthorizedKeysCommand {COMMAND} %%u %%f
AuthorizedKeysCommandUser nobody
END
systemctl restart sshd
%preun
sed -i '/^AuthorizedKeysCommand/d' /etc/ssh/sshd_config
systemctl restart sshd
""",
)
EL9_FILE = "/etc/ssh/sshd_config.d/60-ec2-instance-connect.conf"
EL9 = AWS_SPEC.format(
    version="2.0.0",
    release="5",
    command=COMMAND,
    install=f"""
install -D --mode=600 /dev/stdin %{{buildroot}}{EL9_FILE} << 'END'
AuthorizedKeysCommand {COMMAND} %%u %%f
AuthorizedKeysCommandUser nobody
END
""",
    files=f"%config(noreplace) {EL9_FILE}",
    scriptlets="%post\nsystemctl restart sshd\n%postun\nsystemctl restart sshd",
)
EL8_FILE = "/usr/lib/systemd/system/sshd.service.d/ec2-instance-connect.conf"
EL8 = AWS_SPEC.format(
    version="2.0.0",
    release="5",
    command=COMMAND,
    install=f"""
install -D --mode=644 /dev/stdin %{{buildroot}}{EL8_FILE} << 'END'
[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -o "AuthorizedKeysCommand {COMMAND} %%%%u %%%%f" \\
-o "AuthorizedKeysCommandUser nobody"
END
""",
    files=EL8_FILE,
    scriptlets="%post\nsystemctl daemon-reload; systemctl restart sshd\n"
    "%postun\nsystemctl daemon-reload; systemctl restart sshd",
)


def rpm(machine: Machine, action: str, package: Path | str) -> None:
    if isinstance(package, Path):
        machine.copy_in(package, f"/srv/{package.name}")
        package = f"/srv/{package.name}"
    machine.run("rpm", action, "--nodeps", package)


def test_it_is_installed_upgraded_and_erased_and_leaves_nothing(
    fresh: Instance, rpms: tuple[Path, Path]
) -> None:
    machine, (package, earlier) = fresh.machine, rpms
    # Every RPM distribution has these.
    machine.run("mkdir", "--parents", "/usr/share/licenses", "/srv")
    before, sshd_before = snapshot(machine.root), effective_sshd(machine)
    with all_the_while("sshd -t", lambda: sshd_accepts_its_configuration(machine)):
        rpm(machine, "--install", earlier)
        until(lambda: fresh.push_and_log_in().returncode == 0, "logins with pushed keys")
        assert fresh.decisions()[-1]["_SYSTEMD_UNIT"] == "eic-agent.service"
        with all_the_while("login", lambda: fresh.push_and_log_in().returncode == 0):
            rpm(machine, "--upgrade", package)
        assert machine.run("rpm", "--verify", "--nodeps", "eic-agent").stdout == ""
        assert effective_sshd(machine)["authorizedkeyscommand"].startswith(CLIENT)
        assert fresh.push_and_log_in().returncode == 0
        rpm(machine, "--erase", "eic-agent")
    assert effective_sshd(machine) == sshd_before
    machine.sh("rm /srv/*.rpm")
    records = ("/var/log/", "/root/.rpmdb", *ACCOUNTS)
    assert differences(before, snapshot(machine.root), but=records) == {}
    assert machine.run("systemctl", "is-system-running").stdout == "running\n"


def test_what_was_disabled_stays_disabled_across_upgrades(
    fresh: Instance, rpms: tuple[Path, Path]
) -> None:
    machine, (package, earlier) = fresh.machine, rpms
    rpm(machine, "--install", earlier)
    machine.run("eic-agent", "sshd", "disable")
    rpm(machine, "--upgrade", package)
    assert effective_sshd(machine)["authorizedkeyscommand"] == "none"


@pytest.mark.parametrize(
    "spec", [AMAZON, EL9, EL8], ids=["Amazon Linux", "Enterprise Linux 9", "Enterprise Linux 8"]
)
def test_it_takes_the_place_of_awss_package(
    fresh: Instance, rpms: tuple[Path, Path], spec: str
) -> None:
    """Its scriptlets run after our %post, and take their lines out of the main file."""
    machine = fresh.machine
    machine.write("/srv/aws.spec", spec)
    machine.run("rpmbuild", "--quiet", "-bb", "--define=_rpmdir /srv", "/srv/aws.spec")
    machine.sh("rpm --install --nodeps /srv/noarch/ec2-instance-connect-*.noarch.rpm")
    if spec == EL8:
        assert "eic_run_authorized_keys" in machine.sh("systemctl cat sshd")
    else:
        assert "eic_run_authorized_keys" in effective_sshd(machine)["authorizedkeyscommand"]
    rpm(machine, "--upgrade", rpms[0])
    assert machine.run("rpm", "--query", "ec2-instance-connect", check=False).returncode == 1
    until(lambda: fresh.push_and_log_in().returncode == 0, "logins with pushed keys")
    assert effective_sshd(machine)["authorizedkeyscommand"] == f"{CLIENT} %u %f"
    machine.run("eic-agent", "sshd", "status")

"""The packages under test, built from this tree."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests import support

TREE = Path(__file__).parents[2]
AWS_SCRIPT = "usr/share/ec2-instance-connect/eic_run_authorized_keys"
AWS_DROP_IN = f"""\
[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -o "AuthorizedKeysCommand /{AWS_SCRIPT} %%u %%f" \
-o "AuthorizedKeysCommandUser root" $SSHD_OPTS
"""
AWS_CONTROL = """\
Package: ec2-instance-connect
Version: 1.1.14
Architecture: all
Maintainer: nobody <nobody@example.invalid>
Description: stands for AWS's
"""


def built_deb(directory: Path) -> Path:
    """Build the deb for this machine's architecture; or return what EIC_TEST_DEB names."""
    if given := os.environ.get("EIC_TEST_DEB"):
        return Path(given)
    support.program("dh", "debhelper")
    return _built("deb", "*.deb", directory)


def built_rpm(directory: Path, *options: str) -> Path:
    """Build the rpm for this machine's architecture, without its SELinux policy."""
    support.program("rpmbuild", "rpm")
    return _built("rpm", f"*.{platform.machine()}.rpm", directory, *options)


def _built(kind: str, pattern: str, directory: Path, *options: str) -> Path:
    where = (f"--architecture={platform.machine()}", f"--output={directory}")
    build = (sys.executable, TREE / "packaging/build.py", kind)
    subprocess.run([*build, *where, *options], check=True)
    (package,) = directory.glob(pattern)
    return package


def as_version(deb: Path, version: str, directory: Path) -> Path:
    """Return the same package under another version, as an earlier or a later build of it."""
    unpacked = directory / f"unpacked-{version}"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, unpacked], check=True)
    control = unpacked / "DEBIAN/control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text(
        "".join(f"Version: {version}\n" if x.startswith("Version:") else x for x in lines)
    )
    package = directory / f"eic-agent_{version}.deb"
    _pack(unpacked, package)
    shutil.rmtree(unpacked)
    return package


def aws_package(directory: Path, script: str) -> Path:
    """Return a deb that wires sshd to a script as AWS's own does on Debian and Ubuntu.

    That is by options on the command line of a drop-in for the unit, which beat every file, and by
    restarting sshd.
    """
    tree = directory / "ec2-instance-connect"
    restart = "#!/bin/sh\nsystemctl daemon-reload\nsystemctl restart ssh.service\n"
    files = {
        AWS_SCRIPT: script,
        "lib/systemd/system/ssh.service.d/ec2-instance-connect.conf": AWS_DROP_IN,
        "DEBIAN/control": AWS_CONTROL,
        "DEBIAN/postinst": restart,
        "DEBIAN/postrm": restart,
    }
    for path, content in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        target.chmod(0o755)
    package = directory / "ec2-instance-connect.deb"
    _pack(tree, package)
    return package


def _pack(tree: Path, package: Path) -> None:
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, package],
        stdout=subprocess.DEVNULL,
        check=True,
    )

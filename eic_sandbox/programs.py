"""Programs that the sandbox needs: where they are, and what to do where they are not."""

import os
import shutil
import subprocess

_ALSO = "/usr/sbin:/sbin:/usr/local/sbin"


class SandboxError(Exception):
    """The sandbox cannot go on; the text says what to do."""


def find_program(name: str, package: str) -> str:
    """Return the path of a program, or raise SandboxError that names the package to install."""
    path = _find(name)
    if path is None:
        raise SandboxError(f"there is no {name} here; install it: apt-get install {package}")
    return path


def ensure_openssh() -> None:
    """Install OpenSSH with apt-get where it is missing and we are root.

    Debian's package also starts a service of its own on port 22; whoever runs this is told.
    Raises SandboxError where it cannot be installed.
    """
    if all(map(_find, ("sshd", "ssh", "ssh-keygen"))):
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", "openssh-server"]
    if os.geteuid() != 0 or _find("apt-get") is None:
        raise SandboxError("there is no sshd here; install OpenSSH, as root: " + " ".join(install))
    print(
        "Installing openssh-server. Its package may start a service on port 22, "
        "which is not the one used here.",
        flush=True,
    )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], install):
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
    if result.returncode != 0:
        raise SandboxError(f"{' '.join(install)} failed:\n{result.stderr}")


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_ALSO}")

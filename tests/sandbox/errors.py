"""What stops the sandbox from starting, and where programs are found on this machine."""

import os
import shutil

_ALSO = "/usr/sbin:/sbin:/usr/local/sbin"


class SandboxError(Exception):
    """The sandbox cannot go on; the text says what to do."""


def find_program(name: str, package: str) -> str:
    """Return the path of a program, or raise SandboxError that names the package to install."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_ALSO}")
    if path is None:
        raise SandboxError(f"there is no {name} here; install it: apt-get install {package}")
    return path

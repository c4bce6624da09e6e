"""What tests share: saying what a machine lacks."""

import os
import shutil
from typing import NoReturn

import pytest


def lacking(what: str, install: str) -> NoReturn:
    """Skip the test since the machine lacks something; under CI that is a failure."""
    line = f"needs {what}; install it with: {install}"
    if os.environ.get("CI"):
        pytest.fail(line)
    pytest.skip(line)


def program(name: str, package: str) -> str:
    """Path of a program on this machine, or the test ends with what to install."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/lib/openssh")
    if path is None:
        lacking(f"the program {name}", f"apt-get install {package}")
    return path


def root() -> None:
    """End the test here unless it runs as root."""
    if os.geteuid() != 0:
        lacking("root", "run the tests as root")

"""What tests share: saying what a machine lacks, and finding its Pythons."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
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


@functools.cache
def pythons() -> dict[str, str]:
    """Every interpreter from 3.6 on that this machine has, by its full version."""
    candidates = [sys.executable, "/usr/bin/python3"]
    candidates += [p for p in (shutil.which(f"python3.{n}") for n in range(6, 40)) if p]
    for versions in (Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions",):
        candidates += map(str, sorted(versions.glob("3.*/bin/python")))
    found: dict[str, str] = {}
    for path in candidates:
        if not os.access(path, os.X_OK):
            continue
        done = subprocess.run(
            [path, "-I", "-S", "-c", "import sys; print(*sys.version_info[:3], sep='.')"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and tuple(map(int, done.stdout.split("."))) >= (3, 6):
            found.setdefault(done.stdout.strip(), path)
    return found


def not_as_root() -> list[str]:
    """Return what to put before a command so that it is not root's, and opens every file as root.

    As root the client becomes the agent's user before it falls back, and a developer's machine has
    no such user; but the interpreters and what pytest makes may be root's alone.
    """
    if os.geteuid() != 0:
        return []
    setpriv = [program("setpriv", "util-linux"), "--reuid=65534", "--regid=65534"]
    capability = "+dac_override"
    keeping = [f"--inh-caps={capability}", f"--ambient-caps={capability}"]
    return [*setpriv, "--clear-groups", *keeping, "--"]

"""Writes requirements.lock: the newest wheels that the oldest supported Python can use.

uv resolves, since it can do so for another Python than the one that runs: pip would take the
requirements' conditions on the Python version to speak of the latter.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from wheels import ARCHITECTURES, LOCK, PYTHONS, ROOT, PackagingError, download, wheels_by_hash

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# cffi needs it for reading C declarations, which cryptography never asks for.
LEFT_OUT = ("pycparser",)


class Requirement(NamedTuple):
    """One resolved dependency, and what asks for it."""

    name: str
    version: str
    wanted_by: str


def resolve() -> list[Requirement]:
    """Resolve in name order; raises PackagingError where the architectures differ."""
    outputs = {_compile(f"--python-platform={one}-manylinux_2_28") for one in ARCHITECTURES}
    if len(outputs) != 1:
        raise PackagingError("the architectures resolve differently:\n" + "\n".join(outputs))
    found = re.findall(r"^([a-z0-9-]+)==(\S+) +# via (.+)$", outputs.pop(), flags=re.MULTILINE)
    return [Requirement(*one) for one in found]


def _compile(platform: str) -> str:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", platform]
    command += [f"--python-version={PYTHONS[0]}", "--annotation-style=line", "pyproject.toml"]
    command += [f"--no-emit-package={name}" for name in LEFT_OUT]
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    ran = subprocess.run(
        command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    return ran.stdout


def write(requirements: list[Requirement]) -> None:
    """Download what was resolved, and write the lock file with its hashes."""
    wheels: dict[str, list[tuple[str, str]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        download([f"{one.name}=={one.version}" for one in requirements], Path(directory))
        for digest, path in wheels_by_hash(Path(directory)).items():
            name = path.name.partition("-")[0].replace("_", "-").lower()
            wheels.setdefault(name, []).append((path.name, digest))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [
        "# The wheels that the packages carry. Made by `make lock`, not by hand.",
        f"# For Python {PYTHONS[0]} to {PYTHONS[-1]} on {' and '.join(ARCHITECTURES)}.",
        "# The hashes stand in the order of the names above them. pyproject.toml asks for:",
        *(f"#   {dependency}" for dependency in sorted(project["dependencies"])),
        f"# Left out: {', '.join(LEFT_OUT)}; packaging/lock.py says why.",
    ]
    for name, version, wanted_by in requirements:
        lines += ["#", f"# for {wanted_by.replace(' (pyproject.toml)', '')}"]
        lines += [f"# {wheel}" for wheel, _digest in sorted(wheels[name])]
        lines += [f"{name}=={version} \\"]
        lines += [f"    --hash=sha256:{digest} \\" for _wheel, digest in sorted(wheels[name])]
        lines[-1] = lines[-1].removesuffix(" \\")
    LOCK.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    try:
        write(resolve())
    except (PackagingError, subprocess.CalledProcessError) as error:
        sys.exit(f"packaging/lock.py: {error}")

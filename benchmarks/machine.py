"""The machine that is measured: as root, namespaces in which it is an EC2 instance.

The shell reference insists on http://169.254.169.254, on the instance's identity in /sys, on users
that exist and on its certificate authorities in /etc/ssl/certs. So as root everything runs in a
network and a mount namespace of its own, where the simulator has that address and those files are
ours. Without root, or where namespaces are not to be had, the reference is left out and everything
else is measured on the loopback interface.
"""

import compileall
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import eic_agent
from benchmarks import metadata
from benchmarks.metadata import INSTANCE_ID, MetadataProcess
from eic_agent.journal.writer import JOURNALD_SOCKET
from eic_sandbox.process import announced
from eic_sandbox.simulator.host import write_config, write_sysfs

PYTHON = "/usr/bin/python3"
ROOT = Path(eic_agent.__file__).parents[1]
CLIENT = Path(eic_agent.__file__).with_name("client.py")
# Users for the reference, which answers for nobody whom /etc/passwd does not have.
USERS = {number: f"bench-{number}" for number in (0, 1, 10, 100)}
# Longer than the 60 seconds of AWS, so that no key runs out within a round.
KEY_LIFETIME_S = 200

_ADDRESS = "169.254.169.254"
_INSIDE = "EIC_BENCH_INSIDE"  # set for the process that runs in the namespaces
_CERTIFICATES = "/etc/ssl/certs"
# Reads and forgets, as small as can be: what journald does with an entry is not measured.
_FORGETFUL_JOURNALD = """
import sys, socket
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind(sys.argv[1])
print(flush=True)
while True:
    journal.recv(65536)
"""


class BenchError(Exception):
    """The bench cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is set up for the runs."""

    directory: Path
    metadata: MetadataProcess
    config: Path
    agent: Path  # the script eic-agent
    interpreter: str  # the agent's
    is_instance: bool  # in namespaces

    def client(self, socket: Path, *arguments: str) -> list[str]:
        """Give the command that sshd runs."""
        words = (PYTHON, "-I", "-S", CLIENT, "--socket", socket, "--agent", self.agent, *arguments)
        return list(map(str, words))


def enter_namespaces() -> bool:
    """Go on in namespaces of our own, by becoming this program anew; False where we cannot."""
    if _INSIDE in os.environ:
        return True
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        return False
    words = [unshare, "--net", "--mount", "--"]
    if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        return False
    os.environ[_INSIDE] = "1"
    return os.execv(unshare, [*words, sys.executable, "-m", "benchmarks", *sys.argv[1:]])


@contextlib.contextmanager
def set_up(directory: Path, *, is_instance: bool) -> Iterator[Machine]:
    """Serve metadata, and write what agent and reference read."""
    for path in (PYTHON, "/usr/bin/openssl") if is_instance else (PYTHON,):
        if not Path(path).exists():
            raise BenchError(f"there is no {path} here")
    directory.chmod(0o755)
    with _serve_metadata(is_instance=is_instance) as service, contextlib.ExitStack() as stack:
        sysfs = write_sysfs(directory / "sys", "nitro", INSTANCE_ID)
        anchors = directory / "anchors.pem"
        anchors.write_bytes(service.do(metadata.anchors_pem))
        service.do(metadata.prepare_signer)
        if is_instance:
            _become_instance(directory, sysfs, service.do(metadata.root_name), anchors)
            stack.enter_context(_forgetful_journald())
        tables: dict[str, dict[str, object]] = {
            "imds": {"endpoint": "auto" if is_instance else service.url},
            "identity": {"sysfs_root": "/sys" if is_instance else str(sysfs)},
            "trust": {"anchors": str(anchors)},
            "keys": {"max_lifetime_s": KEY_LIFETIME_S},
        }
        config = write_config(directory / "config.toml", tables)
        interpreter = _agents_interpreter()
        agent = _write_agent(directory / "eic-agent", interpreter, config)
        yield Machine(directory, service, config, agent, interpreter, is_instance)


def _serve_metadata(*, is_instance: bool) -> MetadataProcess:
    if not is_instance:
        return MetadataProcess()
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{_ADDRESS}/32", "dev", "lo")
    return MetadataProcess(_ADDRESS, 80)


def _become_instance(directory: Path, sysfs: Path, root_name: str, anchors: Path) -> None:
    for path in ("/run", "/dev/shm"):
        _run("mount", "-t", "tmpfs", "tmpfs", path)
    _run("mount", "--bind", str(sysfs), "/sys")
    # Beside the system's own authorities: what openssl reads of them is part of what is measured.
    certificates = directory / "certs"
    shutil.copytree(_CERTIFICATES, certificates, symlinks=True)
    shutil.copy(anchors, certificates / f"{root_name.replace(' ', '_')}.pem")
    _run("openssl", "rehash", str(certificates))
    _run("mount", "--bind", str(certificates), _CERTIFICATES)
    users = directory / "passwd"
    added = [f"{name}:x:{60100 + n}:65534::/:/bin/false\n" for n, name in enumerate(USERS.values())]
    users.write_text(Path("/etc/passwd").read_text() + "".join(added))
    _run("mount", "--bind", str(users), "/etc/passwd")


def _forgetful_journald() -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    JOURNALD_SOCKET.parent.mkdir(parents=True)
    argv = [PYTHON, "-I", "-S", "-c", _FORGETFUL_JOURNALD, str(JOURNALD_SOCKET)]
    return announced(argv)


def _agents_interpreter() -> str:
    """The system's Python, as the packages have it, where it can import what is in our venv."""
    show = "import sys; print(*sys.version_info[:2])"
    asked = subprocess.run([PYTHON, "-ISc", show], capture_output=True, text=True, check=True)
    same = asked.stdout.split() == [str(sys.version_info.major), str(sys.version_info.minor)]
    return PYTHON if same else sys.executable


def _write_agent(script: Path, interpreter: str, config: Path) -> Path:
    """Write /usr/bin/eic-agent as the packages have it, with this tree and this configuration."""
    compileall.compile_dir(ROOT / "eic_agent", quiet=1)
    script.write_text(
        f"#!{interpreter} -ISB\n"
        "import sys\n"
        f"sys.path += {import_path()}\n"
        f'sys.argv[1:1] = ["--config", {str(config)!r}]\n'
        "from eic_agent.entry import main\n"
        "sys.exit(main())\n"
    )
    script.chmod(0o755)
    return script


def import_path() -> list[str]:
    """Where an interpreter without site finds the project and what it needs."""
    return [str(ROOT), *{sysconfig.get_path(name): None for name in ("purelib", "platlib")}]


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(words)}: {done.stderr.strip()}")


def kind(interpreter: str) -> str:
    """What may be said of the machine: cores, architecture, versions of Python."""
    versions = [
        subprocess.run(
            [path, "-ISc", "import platform; print(platform.python_version())"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for path in (PYTHON, interpreter)
    ]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {platform.machine()}, Python {versions[0]} (agent: {versions[1]})"

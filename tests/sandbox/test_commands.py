"""`make sandbox` and `make demo`, as somebody runs them who has only read the README."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eic_sandbox.aws_cli import run_aws, send_ssh_public_key_command
from tests import support


@pytest.fixture(autouse=True)
def openssh() -> None:
    support.program("sshd", "openssh-server")
    support.program("ssh", "openssh-client")


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give an environment whose temporary directory must be empty in the end."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    yield {**os.environ, "TMPDIR": str(directory)}
    assert list(directory.iterdir()) == []


def read_exports(process: subprocess.Popen[str]) -> dict[str, str]:
    """Read what `make sandbox` prints until it is ready, as a shell would."""
    assert process.stdout is not None
    exported: dict[str, str] = {}
    for line in process.stdout:
        if line == "ready\n":
            return exported
        command, assignment = shlex.split(line)
        assert command == "export"
        name, _, value = assignment.partition("=")
        exported[name] = value
    raise AssertionError("the sandbox ended before it was ready")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_sandbox_serves_logins_until_it_is_told_to_end(
    temporary: dict[str, str], tmp_path: Path, ending: signal.Signals
) -> None:
    key = tmp_path / "key"
    keygen = support.program("ssh-keygen", "openssh-client")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    command = [sys.executable, "-m", "eic_sandbox"]
    with subprocess.Popen(command, env=temporary, stdout=subprocess.PIPE, text=True) as process:
        try:
            exported = read_exports(process)
            user, port = exported["EIC_SANDBOX_USER"], exported["EIC_SANDBOX_PORT"]
            push = send_ssh_public_key_command(
                exported["EIC_SANDBOX_INSTANCE"], user, key.with_suffix(".pub")
            )
            pushed = run_aws(push, exported)
            assert pushed.returncode == 0, pushed.stderr
            options = ["BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none"]
            options += ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
            ssh = ["ssh", "-F", "none", *(word for o in options for word in ("-o", o))]
            ssh += ["-i", str(key), "-p", port, f"{user}@{exported['EIC_SANDBOX_HOST']}"]
            login = subprocess.run([*ssh, "echo in"], capture_output=True, text=True, check=False)
            assert login.stdout == "in\n", login.stderr
        finally:
            process.send_signal(ending)
        assert process.wait(60) == 0


def test_the_demo_ends_well_and_cleans_up(temporary: dict[str, str]) -> None:
    command = [sys.executable, "-m", "eic_sandbox.demo"]
    demo = subprocess.run(command, env=temporary, capture_output=True, text=True, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "WRONG" not in demo.stdout
    assert demo.stdout.endswith("Every login and every refusal went as it should.\n")

"""A real sshd lets in who holds a pushed key, and nobody else."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eic_sandbox.sandbox import Sandbox, running_sandbox
from eic_sandbox.simulator import SSHKey, faults, new_key
from eic_sandbox.simulator.simulator import ACTIVE_KEYS
from tests import support


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    support.program("sshd", "openssh-server")
    support.program("ssh", "openssh-client")
    # Not pytest's own directory: sshd may run the agent as a user who cannot enter that.
    with (
        tempfile.TemporaryDirectory(prefix="eic-login-") as directory,
        running_sandbox(Path(directory)) as sandbox,
    ):
        yield sandbox


@pytest.fixture(autouse=True)
def clean(sandbox: Sandbox) -> Iterator[None]:
    yield
    sandbox.instance.metadata.keys.clear()
    sandbox.instance.metadata.faults.clear()


@pytest.fixture
def write_key(tmp_path: Path) -> Callable[[SSHKey], Path]:
    def write(key: SSHKey) -> Path:
        path = tmp_path / f"key-{len(list(tmp_path.iterdir()))}"
        path.touch(mode=0o600)
        path.write_bytes(key.private_openssh)
        return path

    return write


def push(sandbox: Sandbox, key: SSHKey) -> None:
    sandbox.instance.push(sandbox.host.user, key.line, "arn:aws:iam::123456789012:user/a", "r-1")


@pytest.mark.parametrize("key_type", ["ssh-ed25519", "ssh-rsa"])
@pytest.mark.parametrize("others", [0, 1, 5])
def test_a_pushed_key_opens_the_login_whatever_is_offered_first(
    sandbox: Sandbox, write_key: Callable[[SSHKey], Path], others: int, key_type: str
) -> None:
    key = new_key(key_type)
    push(sandbox, key)
    offered_first = [write_key(new_key()) for _ in range(others)]
    login = sandbox.host.login([*offered_first, write_key(key)], command="id -un")
    assert login.accepted, login
    assert login.stdout == sandbox.host.user + "\n"
    assert f"{key.fingerprint}\n" in login.sshd_log.partition("Accepted publickey")[2]


def test_a_key_that_was_not_pushed_is_refused(
    sandbox: Sandbox, write_key: Callable[[SSHKey], Path]
) -> None:
    push(sandbox, new_key())
    login = sandbox.host.login([write_key(new_key())])
    assert not login.accepted
    assert "Permission denied (publickey)" in login.stderr
    assert "failed, status" not in login.sshd_log


def test_an_expired_key_is_refused_though_metadata_serves_it(
    sandbox: Sandbox, write_key: Callable[[SSHKey], Path]
) -> None:
    metadata = sandbox.instance.metadata
    key = new_key()
    metadata.push(sandbox.host.user, key, expires=int(time.time()) - 1)
    metadata.linger_s = 3600.0
    assert metadata.get(f"{ACTIVE_KEYS}{sandbox.host.user}/")[0] == 200
    login = sandbox.host.login([write_key(key)])
    metadata.linger_s = 0.0
    assert not login.accepted
    assert "Permission denied (publickey)" in login.stderr


def test_sshd_logs_that_nothing_could_be_decided_when_metadata_is_broken(
    sandbox: Sandbox, write_key: Callable[[SSHKey], Path]
) -> None:
    key = new_key()
    push(sandbox, key)
    sandbox.instance.metadata.faults["*"] = faults.status(500)
    login = sandbox.host.login([write_key(key)])
    assert not login.accepted
    assert "failed, status 1" in login.sshd_log
    sandbox.instance.metadata.faults.clear()
    assert sandbox.host.login([write_key(key)]).accepted

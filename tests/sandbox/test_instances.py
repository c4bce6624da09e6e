"""Several instances at once: what is pushed for one opens no other, and each knows who it is."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eic_sandbox import network
from eic_sandbox.programs import SandboxError
from eic_sandbox.sandbox import Options, Sandbox, running_sandbox
from eic_sandbox.simulator import SSHKey, new_key
from tests import support


@pytest.fixture(scope="module", params=[False, True], ids=["loopback", "machines"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    support.program("sshd", "openssh-server")
    support.program("ssh", "openssh-client")
    if request.param and (problem := network.obstacle()):
        support.lacking(f"network namespaces ({problem})", "run the tests as root")
    options = Options(instances=2, machines=request.param, resident=True)
    with (
        tempfile.TemporaryDirectory(prefix="eic-") as directory,
        running_sandbox(Path(directory), options) as running,
    ):
        yield running


def write(key: SSHKey, directory: Path) -> Path:
    path = directory / "key"
    path.touch(mode=0o600)
    path.write_bytes(key.private_openssh)
    return path


def test_a_key_opens_only_the_instance_that_it_was_pushed_for(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    key = new_key()
    first, second = sandbox.hosts
    sandbox.instances[1].push(second.user, key.line, "arn:aws:iam::123456789012:user/a", "r-1")
    identity = write(key, tmp_path)
    assert second.login([identity]).accepted
    refused = first.login([identity])
    assert refused.status == 255
    assert "Permission denied (publickey)" in refused.stderr


def test_every_instance_has_its_own_id_zone_address_and_metadata(sandbox: Sandbox) -> None:
    first, second = sandbox.instances
    assert first.id != second.id
    assert first.private_ip != second.private_ip
    assert first.metadata_url != second.metadata_url
    zones = [instance.metadata.availability_zone for instance in (first, second)]
    assert zones == ["us-east-1a", "us-east-1b"]


def test_on_a_machine_of_its_own_an_instance_has_a_user_a_name_and_metadata_where_ec2_has_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    if sandbox.host.address == "127.0.0.1":
        assert sandbox.host.user == sandbox.environment()["EIC_SANDBOX_USER"]
        return
    key = new_key()
    instance, host = sandbox.instance, sandbox.host
    instance.push(host.user, key.line, "arn:aws:iam::123456789012:user/a", "r-1")
    ask = (
        "import http.client as h; c = h.HTTPConnection('169.254.169.254'); "
        "c.request('GET', '/latest/meta-data/instance-id'); print(c.getresponse().status)"
    )
    login = host.login([write(key, tmp_path)], f'id -un; hostname; /usr/bin/python3 -c "{ask}"')
    assert login.stdout == "ec2-user\nip-172-31-0-10\n401\n", login


def test_machines_that_cannot_be_made_are_an_error_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with (
        pytest.raises(SandboxError, match="only root"),
        running_sandbox(tmp_path, Options(machines=True)),
    ):
        pass


def test_a_sandbox_that_is_killed_leaves_no_namespace_behind() -> None:
    support.root()
    if problem := network.obstacle():
        support.lacking(f"network namespaces ({problem})", "run the tests as root")
    script = (
        "from eic_sandbox.network import machine\n"
        "with machine() as made:\n"
        "    print(made.pid, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert Path(f"/proc/{pid}/ns/net").exists()
        holder.kill()
    end = time.monotonic() + 30.0
    while _lives(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"

"""A sandbox with what its clients need: keys, and a way to push them through the API."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.session import get_session

from eic_sandbox import network
from eic_sandbox.instance import Instance
from eic_sandbox.sandbox import Options, Sandbox, running_sandbox
from eic_sandbox.sshd import Sshd
from tests import support

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a client fared: whether it got in (and copied what it should), and what it said."""

    ok: bool
    said: str


@dataclass(frozen=True)
class Identity:
    """A key pair in files, as ssh-keygen makes them."""

    path: Path

    @property
    def public(self) -> Path:
        """The public key's file."""
        return self.path.with_name(self.path.name + ".pub")

    @property
    def fingerprint(self) -> str:
        """As sshd and the journal name the key."""
        ssh_keygen = support.program("ssh-keygen", "openssh-client")
        return subprocess.check_output([ssh_keygen, "-l", "-f", self.path], text=True).split()[1]


class Site:
    """The sandbox, and a directory for the clients' files."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self.directory = directory
        self._keys = 0
        self._api: Any = None

    @property
    def host(self) -> Sshd:
        """The instance that clients log in to."""
        return self.sandbox.host

    @property
    def user(self) -> str:
        """The OS user that they log in as."""
        return self.sandbox.host.user

    def new_identity(self, key_type: str = "ed25519") -> Identity:
        """Make a key pair with ssh-keygen; `key_type` is its -t."""
        self._keys += 1
        path = self.directory / f"id-{self._keys}"
        ssh_keygen = support.program("ssh-keygen", "openssh-client")
        make = [ssh_keygen, "-q", "-t", key_type, "-N", "", "-C", "", "-f", str(path)]
        subprocess.run(make, check=True)
        return Identity(path)

    def push(self, identity: Identity, instance: Instance | None = None) -> str:
        """Push a key with SendSSHPublicKey, and return the request id."""
        if self._api is None:
            session = get_session()
            who = self.sandbox.principals[0]
            session.set_credentials(who.access_key_id, who.secret_access_key)
            self._api = session.create_client(
                "ec2-instance-connect",
                region_name="us-east-1",
                endpoint_url=self.sandbox.api_url,
            )
        answer = self._api.send_ssh_public_key(
            InstanceId=(instance or self.sandbox.instance).id,
            InstanceOSUser=self.user,
            SSHPublicKey=identity.public.read_text(),
        )
        return str(answer["RequestId"])

    def environment(self, principal: int = 0) -> dict[str, str]:
        """The sandbox's exports in an environment without settings of whoever runs the tests."""
        kept = {
            n: v for n, v in os.environ.items() if not n.startswith(("AWS_", "SSH_", "ANSIBLE"))
        }
        here = f"{Path(sys.executable).parent}:{kept.get('PATH', '')}"
        return {
            **kept,
            **self.sandbox.environment(principal),
            "PATH": here,
            "LC_ALL": "C.UTF-8",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }

    def run(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        cwd: Path = REPOSITORY,
    ) -> Outcome:
        """Run a client; it is well where it ends with 0."""
        result = subprocess.run(
            command,
            env=environment or self.environment(),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        return Outcome(result.returncode == 0, result.stdout)

    def journal(self) -> str:
        """What the first instance's agent has written so far."""
        return self.sandbox.journal_of(self.sandbox.instance).read_text()


SETTINGS = """\
AuthorizedKeysFile {directory}/authorized_keys/%u
TrustedUserCAKeys {directory}/user_ca.pub
AuthorizedPrincipalsFile {directory}/principals/%u
"""


@contextlib.contextmanager
def running_site(directory: Path) -> Iterator[Site]:
    """Run two instances, the second behind the first; files and certificates open them too."""
    for name, package in (
        ("sshd", "openssh-server"),
        ("ssh", "openssh-client"),
        ("rsync", "rsync"),
    ):
        support.program(name, package)
    clients = directory / "clients"
    clients.mkdir()
    for name in ("authorized_keys", "principals"):
        (directory / name).mkdir()
    ssh_keygen = support.program("ssh-keygen", "openssh-client")
    make = [ssh_keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "user_ca")]
    subprocess.run(make, check=True)
    options = Options(
        instances=2,
        machines=network.obstacle() is None,
        resident=True,
        settings=SETTINGS.format(directory=directory),
        calls_per_s=1000.0,
    )
    box = directory / "box"
    box.mkdir()
    with running_sandbox(box, options) as sandbox:
        yield Site(sandbox, clients)

"""The sandbox as a whole: an API, an instance with its metadata service, and its sshd."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.sandbox.api import InstanceConnectApi, Principal
from tests.sandbox.instance import Instance
from tests.sandbox.sshd import Sshd
from tests.simulator import MetadataSimulator
from tests.simulator.server import Server

# Credentials in the form of AWS's, for this sandbox only.
PRINCIPAL = Principal(
    arn="arn:aws:sts::123456789012:assumed-role/Developer/alice",
    access_key_id="AKIAEICSANDBOX000000",
    secret_access_key="sandbox-secret-access-key",
)


class Sandbox:
    """Everything that runs, and how clients reach it."""

    def __init__(self, instance: Instance, host: Sshd, api_url: str) -> None:
        self.instance = instance
        self.host = host
        self.api_url = api_url

    def environment(self) -> dict[str, str]:
        """What clients need in their environment."""
        region = self.instance.metadata.region or ""
        return {
            "AWS_ENDPOINT_URL": self.api_url,
            "AWS_REGION": region,
            # Version 1 of the AWS CLI, which is the one on PyPI, reads only this.
            "AWS_DEFAULT_REGION": region,
            "AWS_ACCESS_KEY_ID": PRINCIPAL.access_key_id,
            "AWS_SECRET_ACCESS_KEY": PRINCIPAL.secret_access_key,
            "EIC_SANDBOX_INSTANCE": self.instance.id,
            "EIC_SANDBOX_HOST": "127.0.0.1",
            "EIC_SANDBOX_PORT": str(self.host.port),
            "EIC_SANDBOX_USER": self.host.user,
            "EIC_SANDBOX_METADATA": self.instance.metadata_url,
        }


@contextlib.contextmanager
def running_sandbox(directory: Path) -> Iterator[Sandbox]:
    """Run a sandbox with its files below the directory, which is left for the caller to remove."""
    # sshd may run the agent as another user.
    directory.chmod(0o755)
    instance = Instance(MetadataSimulator())
    api = InstanceConnectApi({instance.id: instance}, {PRINCIPAL.access_key_id: PRINCIPAL})
    with (
        instance.serve_metadata(directory / instance.id),
        contextlib.closing(Server(api.handle)) as server,
        Sshd(directory / "sshd", instance.config) as host,
    ):
        yield Sandbox(instance, host, server.url)

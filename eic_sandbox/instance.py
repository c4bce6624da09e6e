"""The instances of the sandbox and the network they are in, as EC2 describes them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eic_sandbox.network import METADATA_ADDRESS, Machine
from eic_sandbox.simulator import MetadataSimulator, PushedKey

KEY_LIFETIME_S = 60
VPC = "vpc-0e1c0000000000000"
SUBNETS = {zone: f"subnet-0e1c00000000000{zone}0" for zone in "abcdef"}


class Instance:
    """An instance that keys can be pushed to; `state` is EC2's name for its state.

    Keys are pushed by id; clients reach its sshd at `public_ip` and `ssh_port`, the tunnel asks
    for `private_ip`.
    """

    def __init__(self, metadata: MetadataSimulator, private_ip: str = "172.31.0.10") -> None:
        self.metadata = metadata
        # As on EC2 a key leaves the metadata when it expires.
        metadata.linger_s = 0.0
        self.private_ip = private_ip
        self.public_ip = "127.0.0.1"
        self.ssh_port = 0
        self.state = "running"
        self.reachable = True
        self.metadata_url = ""
        self.config = Path()

    @property
    def id(self) -> str:
        """The instance id."""
        return self.metadata.instance_id

    @property
    def subnet(self) -> str:
        """The subnet of its zone."""
        return SUBNETS[self.metadata.availability_zone[-1]]

    def arn(self, account: str) -> str:
        """The ARN that policies name."""
        where = f"{self.metadata.region}:{account}"
        return f"arn:{self.metadata.partition}:ec2:{where}:instance/{self.id}"

    def push(self, os_user: str, public_key: str, caller: str, request_id: str) -> PushedKey:
        """Put a key into the metadata for KEY_LIFETIME_S."""
        expires = int(self.metadata.now) + KEY_LIFETIME_S
        return self.metadata.push(
            os_user, public_key, caller=caller, request=request_id, expires=expires
        )

    @contextlib.contextmanager
    def serve_metadata(self, directory: Path, machine: Machine | None = None) -> Iterator[None]:
        """Serve the metadata, and write the agent's configuration for it into the directory.

        It is served at a loopback port, and on a machine of the instance's own at the address
        where EC2 has it.
        """
        with contextlib.ExitStack() as stack:
            self.metadata_url = stack.enter_context(self.metadata.serve())
            agents_url = self.metadata_url
            if machine is not None:
                inside = self.metadata.serve(METADATA_ADDRESS, 80)
                agents_url = machine.call(lambda: stack.enter_context(inside))
            self.config = self.metadata.config(directory, agents_url)
            yield


@dataclass
class Endpoint:
    """The EC2 Instance Connect Endpoint; its DNS name holds a port where that is not 443."""

    dns_name: str
    region: str
    partition: str = "aws"
    id: str = "eice-0e1c0000000000000"

    @property
    def zone(self) -> str:
        """The availability zone of its subnet."""
        return f"{self.region}a"

    def arn(self, account: str) -> str:
        """The ARN that policies name."""
        where = f"{self.region}:{account}"
        return f"arn:{self.partition}:ec2:{where}:instance-connect-endpoint/{self.id}"

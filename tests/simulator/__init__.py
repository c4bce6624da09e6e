"""An EC2 instance's metadata service and the PKI behind EC2 Instance Connect, simulated."""

from tests.simulator.blocks import PushedKey
from tests.simulator.pki import Recipe, SignerPKI
from tests.simulator.simulator import CALLER, MetadataSimulator, another_rsa_key
from tests.simulator.ssh_keys import KEY_TYPES, SSHKey, new_key, rsa_ssh_key
from tests.simulator.staples import Staple

__all__ = [
    "CALLER",
    "KEY_TYPES",
    "MetadataSimulator",
    "PushedKey",
    "Recipe",
    "SSHKey",
    "SignerPKI",
    "Staple",
    "another_rsa_key",
    "new_key",
    "rsa_ssh_key",
]

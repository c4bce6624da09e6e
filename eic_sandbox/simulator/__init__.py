"""An EC2 instance's metadata service and the PKI behind EC2 Instance Connect, simulated."""

from eic_sandbox.simulator.blocks import PushedKey
from eic_sandbox.simulator.pki import Recipe, SignerPKI
from eic_sandbox.simulator.simulator import CALLER, MetadataSimulator, another_rsa_key
from eic_sandbox.simulator.ssh_keys import KEY_TYPES, SSHKey, new_key, rsa_ssh_key
from eic_sandbox.simulator.staples import Staple

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

"""SSH keys of every type that the agent accepts, and some that it does not."""

import base64
import functools
import hashlib
import struct
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from eic_sandbox.simulator.rsa_keys import rsa_key

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "ecdsa-sha2-nistp256": ec.SECP256R1,
    "ecdsa-sha2-nistp384": ec.SECP384R1,
    "ecdsa-sha2-nistp521": ec.SECP521R1,
}


def ssh_string(data: bytes) -> bytes:
    """RFC 4251 section 5, string."""
    return struct.pack(">I", len(data)) + data


@dataclass(frozen=True)
class SSHKey:
    """A public key in SSH's form, and the private key where one exists in software."""

    type: str
    blob: bytes
    private: PrivateKey | None = None

    @property
    def line(self) -> str:
        """As in an authorized_keys file, without options or comment."""
        return f"{self.type} {base64.b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """As sshd gives it for %f by default."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return "SHA256:" + digest.rstrip("=")

    @property
    def md5_fingerprint(self) -> str:
        """As sshd gives it for %f with FingerprintHash md5."""
        digest = hashlib.md5(self.blob).hexdigest()
        return "MD5:" + ":".join(digest[i : i + 2] for i in range(0, 32, 2))

    @property
    def private_openssh(self) -> bytes:
        """The private key as ssh-keygen writes it, without a passphrase."""
        if self.private is None:
            raise ValueError(f"the private key of {self.type} is in no software")
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )


def new_key(key_type: str = "ssh-ed25519") -> SSHKey:
    """Make a key of this type; a new one, except that RSA keys are made once in a process."""
    if key_type == "ssh-rsa":
        return rsa_ssh_key()
    if key_type == "ssh-ed25519":
        return from_private(ed25519.Ed25519PrivateKey.generate())
    if key_type in _CURVES:
        return from_private(ec.generate_private_key(_CURVES[key_type]()))
    application = ssh_string(b"ssh:")
    if key_type == "sk-ssh-ed25519@openssh.com":
        blob = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        return SSHKey(key_type, ssh_string(key_type.encode()) + ssh_string(blob) + application)
    if key_type == "sk-ecdsa-sha2-nistp256@openssh.com":
        point = (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        )
        parts = (key_type.encode(), b"nistp256", point)
        return SSHKey(key_type, b"".join(map(ssh_string, parts)) + application)
    raise ValueError(f"no key of type {key_type} can be made here")


@functools.cache
def rsa_ssh_key(bits: int = 2048, purpose: str = "ssh") -> SSHKey:
    """Return the RSA key of this size and purpose, the same one for the life of the process."""
    return from_private(rsa_key(purpose, bits))


def from_private(key: PrivateKey) -> SSHKey:
    """Return the SSH form of a private key."""
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    key_type, blob = line.decode().split()
    return SSHKey(key_type, base64.b64decode(blob), key)

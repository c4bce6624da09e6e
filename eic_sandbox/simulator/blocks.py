"""Key blocks as the metadata service serves them, signed when asked for."""

import base64
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding

from eic_sandbox.simulator.staples import unchanged


@dataclass(eq=False)
class PushedKey:
    """One pushed key; change any attribute and the block says that, and is signed accordingly.

    `expires` is the Timestamp, seconds since the epoch. None for `expires`, `instance`, `caller` or
    `request` leaves that line out. `extra_lines` are further `#` lines, without the newline.
    `tamper_unsigned` changes the bytes before they are signed, `tamper` changes the whole block
    after that. `signing_key` replaces the leaf's key.
    """

    key_line: str
    expires: int | str | None
    instance: str | None
    caller: str | None = None
    request: str | None = None
    extra_lines: list[str] = field(default_factory=list)
    signing_key: rsa.RSAPrivateKey | None = None
    salt_length: int = 32
    signature_hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    signature_padding: AsymmetricPadding | None = None
    signature_line_length: int = 76
    tamper_unsigned: Callable[[bytes], bytes] = unchanged
    tamper: Callable[[bytes], bytes] = unchanged
    _signed: tuple[object, bytes] | None = field(default=None, repr=False)

    def unsigned(self) -> bytes:
        """Return what gets signed: every # line and the key line, each with its newline."""
        named = (
            ("Timestamp", self.expires),
            ("Instance", self.instance),
            ("Caller", self.caller),
            ("Request", self.request),
        )
        lines = [f"#{name}={value}" for name, value in named if value is not None]
        lines += [*self.extra_lines, self.key_line]
        return self.tamper_unsigned("".join(line + "\n" for line in lines).encode())

    def text(self, leaf_key: rsa.RSAPrivateKey) -> bytes:
        """Return the block as served, ending in a blank line."""
        data = self.unsigned()
        key = self.signing_key or leaf_key
        scheme = (self.signature_hash.name, self.salt_length, self.signature_padding)
        if self._signed is None or self._signed[0] != (data, key, scheme):
            self._signed = ((data, key, scheme), self._sign(key, data))
        signature = base64.b64encode(self._signed[1]).decode()
        wrapped = signature
        if self.signature_line_length:
            wrapped = "\n".join(textwrap.wrap(signature, self.signature_line_length))
        return self.tamper(data + wrapped.encode() + b"\n\n")

    def _sign(self, key: rsa.RSAPrivateKey, data: bytes) -> bytes:
        pss = padding.PSS(padding.MGF1(self.signature_hash), self.salt_length)
        return key.sign(data, self.signature_padding or pss, self.signature_hash)

"""Key blocks as metadata serves them, and the SSH public keys in them.

A block is header lines `#Name=value`, one key line and a base64 signature over both, ended by a
blank line or the end of the document. What is signed is kept byte for byte. Nothing here decides
whether a block is to be believed.
"""

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

_HEADER = re.compile(rb"#([!-<>-~]+)=(.*)")
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_SIGNATURE_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_MOST_LINES = 100  # a signature of 16384 bits has 36
# A header that must stand once, so that nobody can read another value than we do.
_KNOWN = ("Timestamp", "Instance", "Caller", "Request")


class MalformedKey(ValueError):
    """A key line that is no SSH public key; the text says why."""


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """One well-formed block; `expires` is in seconds since the epoch."""

    expires: int
    instance: str
    caller: str | None
    request: str | None
    key_line: bytes
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class MalformedBlock:
    """Lines that are no block, with what is wrong with them."""

    problem: str


def parse_blocks(document: bytes) -> Iterator[KeyBlock | MalformedBlock]:
    """Read every block of an active-keys document, each on its own (step 6)."""
    for lines, terminated in _split(document):
        try:
            if not terminated:
                raise _Malformed("not ended by a blank line")
            yield _parse_block(lines)
        except _Malformed as error:
            yield MalformedBlock(str(error))


class _Malformed(ValueError):
    pass


def _split(document: bytes) -> Iterator[tuple[list[bytes], bool]]:
    """Cut the document into blocks: lines, and whether a blank line or the end follows.

    A header line behind a key or signature also begins a block, so that a block which lacks its
    end takes none of the next one with it. Of a block with too many lines no more than one too many
    are kept, its last one among them.
    """
    lines: list[bytes] = []
    for ended_line in io.BytesIO(document):
        line = ended_line.removesuffix(b"\n")
        if not line:
            if lines:
                yield lines, True
            lines = []
        elif line.startswith(b"#") and lines and not lines[-1].startswith(b"#"):
            yield lines, False
            lines = [line]
        elif len(lines) > _MOST_LINES:
            lines[-1] = line
        else:
            lines.append(line)
    if lines:
        yield lines, True


def _parse_block(lines: list[bytes]) -> KeyBlock:
    if len(lines) > _MOST_LINES:
        raise _Malformed(f"more than {_MOST_LINES} lines")
    headers = [line for line in lines if line.startswith(b"#")]
    key_and_signature = lines[len(headers) :]
    if not key_and_signature:
        raise _Malformed("no key line")
    fields = _parse_headers(headers)
    key_line, *signature_lines = key_and_signature
    if b"\r" in key_line:
        raise _Malformed("a carriage return in the key line")
    expires = fields["Timestamp"]
    if not _TIMESTAMP.fullmatch(expires):
        raise _Malformed(f"Timestamp {expires!r} is not a whole number of seconds")
    return KeyBlock(
        expires=int(expires),
        instance=fields["Instance"],
        caller=fields.get("Caller"),
        request=fields.get("Request"),
        key_line=key_line,
        signed=b"".join(line + b"\n" for line in (*headers, key_line)),
        signature=_parse_signature(signature_lines),
    )


def _parse_headers(lines: list[bytes]) -> dict[str, str]:
    """Value of every header that is known; others are signed too, and ignored."""
    fields: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise _Malformed(f"{line[:60]!r} is not #Name=value")
        try:
            name, value = match[1].decode("ascii"), match[2].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Malformed(f"{line[:60]!r} is not {error.encoding}") from None
        if not value.isprintable():
            raise _Malformed(f"unprintable characters in {name!r}")
        if name in _KNOWN and name in fields:
            raise _Malformed(f"{name} stands twice")
        fields[name] = value
    for name in ("Timestamp", "Instance"):
        if name not in fields:
            raise _Malformed(f"no {name}")
    return fields


def _parse_signature(lines: list[bytes]) -> bytes:
    if not lines:
        raise _Malformed("no signature")
    for line in lines:
        if not _SIGNATURE_LINE.fullmatch(line):
            raise _Malformed(f"signature line {line[:60]!r} is not base64")
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error as error:
        raise _Malformed(f"the signature is not base64: {error}") from None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An SSH public key: algorithm, RFC 4253 blob, and for RSA the size of its modulus in bits."""

    algorithm: str
    blob: bytes
    rsa_bits: int | None = None

    @property
    def authorized_key(self) -> str:
        """The key as authorized_keys has it, re-encoded, without a comment."""
        return f"{self.algorithm} {base64.b64encode(self.blob).decode('ascii')}"


def key_blob(key_line: bytes) -> bytes:
    """Decode the base64 field of a key line. Raises MalformedKey."""
    return _split_key_line(key_line)[1]


def _split_key_line(key_line: bytes) -> tuple[str, bytes]:
    fields = key_line.split(b" ", 2)
    if len(fields) < 2:
        raise MalformedKey("no algorithm and key, separated by one space")
    try:
        return fields[0].decode("ascii"), base64.b64decode(fields[1], validate=True)
    except (UnicodeDecodeError, binascii.Error) as error:
        raise MalformedKey(f"not an algorithm and base64: {error}") from None


def has_fingerprint(blob: bytes, fingerprint: str) -> bool:
    """Whether a key blob has this fingerprint, as sshd's %f gives it: `SHA256:...` or `MD5:...`."""
    if fingerprint.startswith("MD5:"):
        # Only as a name for the key that sshd asks about; what is granted is the key itself.
        digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
        return fingerprint[4:].replace(":", "").lower() == digest
    return fingerprint == sha256_fingerprint(blob)


def sha256_fingerprint(blob: bytes) -> str:
    """Fingerprint as `ssh-keygen -l` prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest())
    return "SHA256:" + digest.rstrip(b"=").decode("ascii")


def parse_public_key(key_line: bytes) -> PublicKey:
    """Read the key of a key line, strictly: one encoding for each key.

    RFC 4253 6.6 (RSA), RFC 8709 4 (Ed25519), RFC 5656 3.1 (ECDSA), OpenSSH's PROTOCOL.u2f (sk-).
    Raises MalformedKey.
    """
    algorithm, blob = _split_key_line(key_line)
    read_body = _KEY_BODIES.get(algorithm)
    if read_body is None:
        raise MalformedKey(f"unknown key type {algorithm!r}")
    reader = _Reader(blob)
    if reader.string() != algorithm.encode("ascii"):
        raise MalformedKey(f"the key is not of the type {algorithm!r} that its text says")
    rsa_bits = read_body(reader)
    if algorithm.startswith("sk-"):
        reader.string()  # the application, "ssh:" unless the key was made for another
    reader.end()
    return PublicKey(algorithm, blob, rsa_bits)


class _Reader:
    """Takes RFC 4251 section 5 values off the front of a blob."""

    def __init__(self, blob: bytes) -> None:
        self._rest = blob

    def string(self) -> bytes:
        size = int.from_bytes(self._rest[:4], "big")
        if len(self._rest) < 4 + size:
            raise MalformedKey("the key is cut short")
        value, self._rest = self._rest[4 : 4 + size], self._rest[4 + size :]
        return value

    def positive_mpint(self) -> int:
        value = self.string()
        if not value or value[0] & 0x80 or (value[0] == 0 and value[1:2] < b"\x80"):
            raise MalformedKey("a number is not in its shortest positive form")
        return int.from_bytes(value, "big")

    def end(self) -> None:
        if self._rest:
            raise MalformedKey("bytes behind the key")


def _read_rsa(reader: _Reader) -> int:
    exponent, modulus = reader.positive_mpint(), reader.positive_mpint()
    if exponent < 3 or not exponent & 1 or not modulus & 1:
        raise MalformedKey("no RSA key has these numbers")
    return modulus.bit_length()


def _read_ed25519(reader: _Reader) -> None:
    if len(reader.string()) != 32:
        raise MalformedKey("an Ed25519 key has 32 bytes")


def _read_ecdsa(name: bytes, curve: ec.EllipticCurve) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        if reader.string() != name:
            raise MalformedKey(f"the curve is not {name.decode('ascii')}")
        try:
            # Uncompressed form only (RFC 5656 3.1 allows the other, OpenSSH does not).
            point = reader.string()
            if not point.startswith(b"\x04"):
                raise ValueError(point)
            ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
        except ValueError:
            raise MalformedKey(f"no uncompressed point of {name.decode('ascii')}") from None

    return read


_KEY_BODIES: dict[str, Callable[[_Reader], int | None]] = {
    "ssh-ed25519": _read_ed25519,
    "ssh-rsa": _read_rsa,
    "ecdsa-sha2-nistp256": _read_ecdsa(b"nistp256", ec.SECP256R1()),
    "ecdsa-sha2-nistp384": _read_ecdsa(b"nistp384", ec.SECP384R1()),
    "ecdsa-sha2-nistp521": _read_ecdsa(b"nistp521", ec.SECP521R1()),
    "sk-ssh-ed25519@openssh.com": _read_ed25519,
    "sk-ecdsa-sha2-nistp256@openssh.com": _read_ecdsa(b"nistp256", ec.SECP256R1()),
}
KEY_TYPES = tuple(_KEY_BODIES)

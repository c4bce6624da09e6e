"""From what metadata serves about its key signer to a public key that may be believed.

The order is: build a path from the leaf to a trust anchor (`build_path`), check what path
validation does not (inside it), then demand a good OCSP staple for every certificate of the built
path below the anchor (`check_revocation`). Only this gives a `TrustedSigner` (step 5).
"""

import base64
import datetime
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import NameOID

from eic_agent.errors import ConfigError, Reason, UntrustedMaterial
from eic_agent.lookup.keyblock import KeyBlock
from eic_agent.lookup.ocsp import Staple, Status, UnreadableStaple, read_through

AMAZON_ROOTS = {
    "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e": "Amazon Root CA 1",
    "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4": "Amazon Root CA 2",
    "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4": "Amazon Root CA 3",
    "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092": "Amazon Root CA 4",
    "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5": "Starfield Services G2",
}
_AMAZON_DOMAIN = "amazonaws.com"

# Where distributions keep the system store: Debian and Ubuntu, RHEL and Amazon Linux, SUSE, Alpine.
SYSTEM_STORES = tuple(
    Path(path)
    for path in (
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    )
)

# No dash within: a search for each END to the end of the document would take quadratic time.
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_MIN_SIGNER_RSA_BITS = 2048
_SALT_LENGTH = 32


@dataclass(frozen=True, slots=True)
class TrustRules:
    """The `[trust]` table of the configuration."""

    anchors: str = "auto"
    revocation: str = "require"
    max_cache_s: float = 300.0


@dataclass(frozen=True)
class TrustAnchors:
    """Certificates that a path may end in, and a line about each that could not be read."""

    source: str
    certificates: tuple[x509.Certificate, ...]
    skipped: tuple[str, ...] = ()

    @cached_property
    def store(self) -> verification.Store:
        """The certificates as path validation takes them."""
        return verification.Store(list(self.certificates))


def load_anchors(rule: str, domain: str, stores: Iterable[Path] = SYSTEM_STORES) -> TrustAnchors:
    """Load the anchors that `[trust] anchors` names, for the instance's domain.

    Raises ConfigError where there is none to be had.
    """
    if rule == "amazon" or (rule == "auto" and domain == _AMAZON_DOMAIN):
        return load_amazon_roots()
    if rule not in ("auto", "system"):
        return _read_anchors(Path(rule))
    for path in stores:
        if os.path.isfile(path):  # noqa: PTH113 - Path's raises in a directory closed to us
            return _read_anchors(path)
    raise ConfigError(
        "[trust] anchors: this system keeps no certificates where we look "
        f"({', '.join(str(path) for path in stores)}); "
        'install its ca-certificates package, or set anchors to "amazon" or to a path'
    )


def load_amazon_roots() -> TrustAnchors:
    """Load the Amazon roots that ship with the package, each checked by the hash of its DER."""
    pem = resources.files("eic_agent").joinpath("data/amazon-trust-services-roots.pem").read_bytes()
    ders = (base64.b64decode(b"".join(m[0].split(b"\n")[1:-1])) for m in _PEM.finditer(pem))
    found = {hashlib.sha256(der).hexdigest() for der in ders}
    if found != AMAZON_ROOTS.keys():
        raise ConfigError(
            "the Amazon roots that ship with eic-agent are damaged; install the package again"
        )
    return _parse_anchors("Amazon Trust Services roots", pem)


def _read_anchors(path: Path) -> TrustAnchors:
    try:
        anchors = _parse_anchors(str(path), path.read_bytes())
    except OSError as error:
        raise ConfigError(f"[trust] anchors: cannot read {path}: {error.strerror}") from None
    if not anchors.certificates:
        raise ConfigError(f"[trust] anchors: {path} holds no certificate in PEM form")
    return anchors


def _parse_anchors(source: str, pem: bytes) -> TrustAnchors:
    """Read certificate by certificate: one that does not parse must not cost the others."""
    certificates, skipped = [], []
    for number, match in enumerate(_PEM.finditer(pem), start=1):
        try:
            certificates.append(_load_certificate(match[0]))
        except ValueError as error:
            skipped.append(f"{source}: certificate {number} skipped: {error}")
    return TrustAnchors(source, tuple(certificates), tuple(skipped))


def _load_certificate(pem: bytes) -> x509.Certificate:
    """Parse one certificate, to the last of what is asked of it later. Raises ValueError."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from None
    read_through(certificate)
    return certificate


@dataclass(frozen=True, slots=True)
class SignerPath:
    """A validated path: leaf first, trust anchor last; and what was received but is not on it."""

    certificates: tuple[x509.Certificate, ...]
    unused: tuple[x509.Certificate, ...] = ()

    @property
    def not_after(self) -> float:
        """When the first of the certificates runs out, in seconds since the epoch."""
        return min(c.not_valid_after_utc.timestamp() for c in self.certificates)

    def needs_staple(self, name: str) -> bool:
        """Whether to fetch a staple of this name: not where it is an unused certificate's."""
        return name.upper() not in {
            fingerprint for c in self.unused for fingerprint in _staple_names(c)
        }


def _staple_names(certificate: x509.Certificate) -> tuple[str, str]:
    """Names that metadata gives a certificate's staple: SHA-1, and once SHA-256, of its DER."""
    der = certificate.public_bytes(Encoding.DER)
    return (
        hashlib.sha1(der, usedforsecurity=False).hexdigest().upper(),
        hashlib.sha256(der).hexdigest().upper(),
    )


def build_path(chain_pem: bytes, signer_name: str, anchors: TrustAnchors, now: float) -> SignerPath:
    """Build and validate the path from the served leaf to an anchor, for this name, at `now`.

    Raises UntrustedMaterial with UNTRUSTED_CHAIN or WRONG_SIGNER_NAME.
    """
    leaf, *others = _read_chain(chain_pem)
    _check_leaf_name(leaf, signer_name)
    builder = verification.PolicyBuilder().store(anchors.store)
    verifier = builder.time(_utc(now)).build_server_verifier(x509.DNSName(signer_name))
    try:
        path = verifier.verify(leaf, others)
    except (verification.VerificationError, x509.UnsupportedGeneralNameType) as error:
        raise UntrustedMaterial(
            Reason.UNTRUSTED_CHAIN,
            f"no valid path from {leaf.subject.rfc4514_string()!r} "
            f"to an anchor of {anchors.source}: {error}",
        ) from None
    _check_leaf_key(leaf)
    return SignerPath(tuple(path), tuple(c for c in others if c not in path))


def _read_chain(chain_pem: bytes) -> list[x509.Certificate]:
    """Read the leaf and whatever else was served that can be read."""
    chain = []
    for number, match in enumerate(_PEM.finditer(chain_pem)):
        try:
            chain.append(_load_certificate(match[0]))
        except ValueError as error:
            if number == 0:
                raise UntrustedMaterial(
                    Reason.UNTRUSTED_CHAIN, f"the signer's certificate cannot be read: {error}"
                ) from None
    if not chain:
        raise UntrustedMaterial(Reason.UNTRUSTED_CHAIN, "no certificate was served")
    return chain


def _check_leaf_name(leaf: x509.Certificate, signer_name: str) -> None:
    """Demand the name literally in the SAN, no wildcard, and in every common name."""
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = san.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if signer_name not in names:
        raise UntrustedMaterial(
            Reason.WRONG_SIGNER_NAME,
            f"the certificate names {', '.join(map(repr, names)) or 'nobody'}, not {signer_name}",
        )
    for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        if attribute.value != signer_name:
            raise UntrustedMaterial(
                Reason.WRONG_SIGNER_NAME,
                f"the certificate's common name is {attribute.value!r}, not {signer_name}",
            )


def _check_leaf_key(leaf: x509.Certificate) -> rsa.RSAPublicKey:
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_SIGNER_RSA_BITS:
        raise UntrustedMaterial(
            Reason.UNTRUSTED_CHAIN,
            f"the signer's key is not RSA of at least {_MIN_SIGNER_RSA_BITS} bits",
        )
    return key


def _utc(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now, datetime.timezone.utc)


@dataclass(frozen=True, slots=True)
class TrustedSigner:
    """The key that signs key blocks, believed until `valid_until` (seconds since the epoch)."""

    name: str
    public_key: rsa.RSAPublicKey
    valid_until: float


def check_revocation(
    path: SignerPath, staples: Mapping[str, bytes], signer_name: str, rules: TrustRules, now: float
) -> TrustedSigner:
    """Demand a good staple for every certificate of the path below its anchor.

    `staples` maps the names they were served under, used in messages only, to DER. Raises
    UntrustedMaterial with REVOKED or NO_VALID_STAPLE.
    """
    readable, problems = _read_staples(staples)
    holds_until = [now + rules.max_cache_s, path.not_after]
    unproved = []
    for certificate, issuer in zip(path.certificates, path.certificates[1:], strict=False):
        subject = certificate.subject.rfc4514_string()
        verdicts = {name: s.judge(certificate, issuer, now) for name, s in readable.items()}
        for name, verdict in verdicts.items():
            if verdict.status is Status.REVOKED:
                raise UntrustedMaterial(
                    Reason.REVOKED, f"{subject!r} is {verdict.detail}, says staple {name}"
                )
        good = [v.next_update for v in verdicts.values() if v.status is Status.GOOD]
        unusable = [
            f"staple {name}: {v.detail}"
            for name, v in verdicts.items()
            if v.status is Status.UNUSABLE
        ]
        holds_until += good
        if not good and (unusable or rules.revocation == "require"):
            unproved.append(f"{subject!r} ({'; '.join(unusable) or 'no staple speaks of it'})")
    if unproved:
        raise UntrustedMaterial(
            Reason.NO_VALID_STAPLE, "no good staple for " + ", ".join([*unproved, *problems])
        )
    return TrustedSigner(signer_name, _check_leaf_key(path.certificates[0]), min(holds_until))


def _read_staples(staples: Mapping[str, bytes]) -> tuple[dict[str, Staple], list[str]]:
    readable, problems = {}, []
    for name, der in staples.items():
        try:
            readable[name] = Staple(der)
        except UnreadableStaple as error:
            problems.append(f"staple {name}: {error}")
    return readable, problems


def signed_by(block: KeyBlock, signer: TrustedSigner) -> bool:
    """Whether the signer signed this block: RSA-PSS, SHA-256, MGF1-SHA-256, salt of 32 bytes."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), _SALT_LENGTH)
    try:
        signer.public_key.verify(block.signature, block.signed, pss, hashes.SHA256())
    except InvalidSignature:
        return False
    return True

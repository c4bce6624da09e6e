"""From what metadata serves about its key signer to a public key that may be believed.

The order is: build a path from the leaf to a trust anchor (`build_path`), check what path
validation does not (inside it), then demand a good OCSP staple for every certificate of the built
path below the anchor (`check_revocation`). Only this gives a `TrustedSigner` (step 5).
"""

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import NameOID

from eic_agent.errors import Reason, UntrustedMaterial
from eic_agent.lookup.anchors import TrustAnchors
from eic_agent.lookup.certificates import read_pem, within_validity
from eic_agent.lookup.keyblock import KeyBlock
from eic_agent.lookup.ocsp import Staple, Status, UnreadableStaple

_MIN_SIGNER_RSA_BITS = 2048
_SALT_LENGTH = 32


@dataclass(frozen=True, slots=True)
class TrustRules:
    """The `[trust]` table of the configuration."""

    anchors: str = "auto"
    revocation: str = "require"
    max_cache_s: float = 3600.0


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


def build_path(
    chain_pem: bytes, signer_name: str, anchors: TrustAnchors, now: float, skew_s: float = 0.0
) -> SignerPath:
    """Build and validate the path from the served leaf to an anchor, for this name, at `now`.

    A certificate may begin to hold up to `skew_s` later, since this machine's clock may be slow;
    none may have ended. Raises UntrustedMaterial with UNTRUSTED_CHAIN or WRONG_SIGNER_NAME.
    """
    leaf, *others = chain = _read_chain(chain_pem)
    _check_leaf_name(leaf, signer_name)
    # Path validation knows one moment for both ends. At a later one no more certificates have not
    # ended, so what is valid at the last of the beginnings is as good as what is valid now.
    begins = (c.not_valid_before_utc.timestamp() for c in chain)
    last_begin = max((begin for begin in begins if now < begin <= now + skew_s), default=now)
    try:
        try:
            path = _verify(leaf, others, signer_name, anchors, now)
        except verification.VerificationError:
            if last_begin == now:
                raise
            path = _verify(leaf, others, signer_name, anchors, last_begin)
    except (verification.VerificationError, x509.UnsupportedGeneralNameType) as error:
        raise UntrustedMaterial(
            Reason.UNTRUSTED_CHAIN,
            f"no valid path from {leaf.subject.rfc4514_string()!r} "
            f"to an anchor of {anchors.source}: {error}",
            about_time=not all(within_validity(c, now, skew_s) for c in chain),
        ) from None
    _check_leaf_key(leaf)
    return SignerPath(tuple(path), tuple(c for c in others if c not in path))


def _verify(
    leaf: x509.Certificate,
    others: list[x509.Certificate],
    signer_name: str,
    anchors: TrustAnchors,
    at: float,
) -> list[x509.Certificate]:
    builder = verification.PolicyBuilder().store(anchors.store).time(_utc(at))
    return builder.build_server_verifier(x509.DNSName(signer_name)).verify(leaf, others)


def _read_chain(chain_pem: bytes) -> list[x509.Certificate]:
    """Read the leaf and whatever else was served that can be read."""
    chain = list(read_pem(chain_pem))
    if not chain:
        raise UntrustedMaterial(Reason.UNTRUSTED_CHAIN, "no certificate was served")
    if isinstance(chain[0], ValueError):
        raise UntrustedMaterial(
            Reason.UNTRUSTED_CHAIN, f"the signer's certificate cannot be read: {chain[0]}"
        )
    return [certificate for certificate in chain if isinstance(certificate, x509.Certificate)]


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
    path: tuple[x509.Certificate, ...] = ()


class RevokedCertificate(UntrustedMaterial):
    """Proof that a certificate of a path is revoked, whatever else is held of it."""

    def __init__(self, certificate: x509.Certificate, detail: str) -> None:
        super().__init__(Reason.REVOKED, detail)
        self.certificate = certificate


def check_revocation(
    path: SignerPath,
    staples: Mapping[str, bytes],
    signer_name: str,
    rules: TrustRules,
    now: float,
    skew_s: float = 0.0,
) -> TrustedSigner:
    """Demand a good staple for every certificate of the path below its anchor.

    `staples` maps the names they were served under, used in messages only, to DER; one may begin to
    hold up to `skew_s` later. Raises RevokedCertificate, or UntrustedMaterial with NO_VALID_STAPLE.
    """
    readable, problems = _read_staples(staples)
    holds_until = [now + rules.max_cache_s, path.not_after]
    unproved = []
    about_time = False
    for certificate, issuer in zip(path.certificates, path.certificates[1:], strict=False):
        subject = certificate.subject.rfc4514_string()
        verdicts = {name: s.judge(certificate, issuer, now, skew_s) for name, s in readable.items()}
        for name, verdict in verdicts.items():
            if verdict.status is Status.REVOKED:
                raise RevokedCertificate(
                    certificate, f"{subject!r} is {verdict.detail}, says staple {name}"
                )
        good = [v.next_update for v in verdicts.values() if v.status is Status.GOOD]
        unusable = [
            f"staple {name}: {v.detail}"
            for name, v in verdicts.items()
            if v.status is Status.UNUSABLE
        ]
        holds_until += good
        if not good and (unusable or rules.revocation == "require"):
            about_time = about_time or any(v.about_time for v in verdicts.values())
            unproved.append(f"{subject!r} ({'; '.join(unusable) or 'no staple speaks of it'})")
    if unproved:
        raise UntrustedMaterial(
            Reason.NO_VALID_STAPLE,
            "no good staple for " + ", ".join([*unproved, *problems]),
            about_time=about_time,
        )
    leaf_key = _check_leaf_key(path.certificates[0])
    return TrustedSigner(signer_name, leaf_key, min(holds_until), path.certificates)


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

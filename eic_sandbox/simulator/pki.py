"""A web PKI of the shape that EC2 Instance Connect's signer has.

root (self-signed, the trust anchor)       other_root            oldest_root
  | also served as                            |                      |
  |   cross_root: root's name and key, by other_root                 |
  |   cross_other_root: other_root's name and key, by oldest_root ---+
intermediate
  |
leaf: managed-ssh-signer.<region>.<domain>
"""

import datetime
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eic_sandbox.simulator.rsa_keys import rsa_key

DAY = 86400.0
SigningKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
CertificateHash: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512


def utc(seconds: float) -> datetime.datetime:
    """Seconds since the epoch as X.509 wants them: UTC, whole seconds."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)


@dataclass(eq=False)
class Recipe:
    """One certificate; change any attribute and `certificate` is made anew accordingly.

    `issuer` None means self-signed. `signing_key` replaces the issuer's key, `omit` leaves out
    extensions by their class, and `extra` adds extensions as (extension, critical).
    """

    common_name: str | None
    key: SigningKey
    serial: int
    not_before: float
    not_after: float
    issuer: "Recipe | None" = None
    organization: str | None = "Simulated Trust Services"
    dns_names: list[str] = field(default_factory=list)
    is_ca: bool = True
    path_length: int | None = None
    extended_usages: list[x509.ObjectIdentifier] = field(default_factory=list)
    signature_hash: CertificateHash = field(default_factory=hashes.SHA256)
    signing_key: SigningKey | None = None
    omit: set[type[x509.ExtensionType]] = field(default_factory=set)
    extra: list[tuple[x509.ExtensionType, bool]] = field(default_factory=list)
    _made: tuple[object, x509.Certificate] | None = field(default=None, repr=False)

    @property
    def name(self) -> x509.Name:
        """The subject."""
        attributes = []
        if self.organization is not None:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.organization))
        if self.common_name is not None:
            attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, self.common_name))
        return x509.Name(attributes)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate as its attributes are now; the same object until one changes."""
        issuer = self.issuer or self
        recipe = (
            self.name,
            self.key,
            self.serial,
            self.not_before,
            self.not_after,
            issuer.name,
            issuer.key,
            tuple(self.dns_names),
            self.is_ca,
            self.path_length,
            tuple(self.extended_usages),
            self.signature_hash.name,
            self.signing_key,
            frozenset(self.omit),
            tuple(self.extra),
        )
        if self._made is None or self._made[0] != recipe:
            self._made = (recipe, self._make(issuer))
        return self._made[1]

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def fingerprint(self, algorithm: str) -> str:
        """Upper-case fingerprint of the DER, as it names a staple; `algorithm`: sha1, sha256."""
        digest = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}[algorithm]
        return self.certificate.fingerprint(digest()).hex().upper()

    def _make(self, issuer: "Recipe") -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name)
            .public_key(self.key.public_key())
            .serial_number(self.serial)
            .not_valid_before(utc(self.not_before))
            .not_valid_after(utc(self.not_after))
        )
        for extension, critical in [*self._extensions(issuer), *self.extra]:
            if type(extension) not in self.omit:
                builder = builder.add_extension(extension, critical)
        return builder.sign(self.signing_key or issuer.key, self.signature_hash)

    def _extensions(self, issuer: "Recipe") -> list[tuple[x509.ExtensionType, bool]]:
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(self.is_ca, self.path_length), True),
            (_key_usage(self.is_ca), True),
            (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
            (
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
                False,
            ),
        ]
        if self.extended_usages:
            extensions.append((x509.ExtendedKeyUsage(self.extended_usages), False))
        if self.dns_names:
            names = [x509.DNSName(name) for name in self.dns_names]
            extensions.append((x509.SubjectAlternativeName(names), False))
        return extensions


class SignerPKI:
    """The certificates around one signer, valid from a month before `now` to a year after it."""

    def __init__(self, signer_name: str, now: float) -> None:
        self._now = now
        self._serial = 1000
        self.oldest_root = self.authority("Simulated Class 2 CA")
        self.other_root = self.authority("Simulated Services Root CA - G2")
        self.root = self.authority("Simulated Root CA 1")
        self.cross_root = self.cross_sign(self.root, self.other_root)
        self.cross_other_root = self.cross_sign(self.other_root, self.oldest_root)
        self.intermediate = self.authority("Simulated RSA 2048 M01", self.root, path_length=0)
        self.leaf = self.server(signer_name)

    def authority(
        self, name: str, issuer: Recipe | None = None, path_length: int | None = None
    ) -> Recipe:
        """Return a CA, self-signed unless it has an issuer."""
        return self._recipe(name, rsa_key(name), issuer, path_length)

    def cross_sign(self, subject: Recipe, issuer: Recipe) -> Recipe:
        """Return a second certificate for the name and key of `subject`, by another issuer."""
        return self._recipe(subject.common_name, subject.key, issuer)

    def server(self, name: str, issuer: Recipe | None = None, purpose: str = "leaf") -> Recipe:
        """Return a TLS server's certificate; the same `purpose` gives the same key."""
        recipe = self._recipe(name, rsa_key(purpose), issuer or self.intermediate)
        recipe.organization = None
        recipe.is_ca = False
        recipe.dns_names = [name]
        recipe.extended_usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        return recipe

    def responder(self, issuer: Recipe, purpose: str = "responder") -> Recipe:
        """Return a certificate by which `issuer` delegates the signing of OCSP responses."""
        recipe = self._recipe("Simulated OCSP Responder", rsa_key(purpose), issuer)
        recipe.is_ca = False
        recipe.extended_usages = [ExtendedKeyUsageOID.OCSP_SIGNING]
        return recipe

    def _recipe(
        self,
        common_name: str | None,
        key: SigningKey,
        issuer: Recipe | None,
        path_length: int | None = None,
    ) -> Recipe:
        self._serial += 1
        return Recipe(
            common_name=common_name,
            key=key,
            serial=self._serial,
            not_before=self._now - 30 * DAY,
            not_after=self._now + 365 * DAY,
            issuer=issuer,
            path_length=path_length,
        )


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        key_encipherment=not is_ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

"""Judging one OCSP staple: what it proves of a certificate at this moment (RFC 6960).

A staple is taken by its CertID, never by the name that it was served under.
"""

import enum
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from eic_agent.lookup.certificates import UNREADABLE, read_through, within_validity

_SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class Status(enum.Enum):
    """What a staple proves about a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNUSABLE = "unusable"  # it speaks of this certificate, but proves nothing
    OTHER = "of another certificate"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A staple's status, why, and until when (seconds since the epoch) a good one holds."""

    status: Status
    detail: str
    next_update: float = 0.0
    about_time: bool = False  # unusable now, and not at any time


class UnreadableStaple(ValueError):
    """Bytes that are no OCSP response about one certificate; the text says why."""


class Staple:
    """An OCSP response about one certificate (RFC 5019 2.2.1), read but not yet believed."""

    def __init__(self, der: bytes) -> None:
        """Read DER. Raises UnreadableStaple."""
        try:
            self._response = ocsp.load_der_ocsp_response(der)
            if self._response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
                status = self._response.response_status.name
                raise UnreadableStaple(f"the responder answered {status}")
            if len(list(self._response.responses)) != 1:
                raise UnreadableStaple("it speaks of more or fewer than one certificate")
            _ = self._response.responder_name
            extensions = (*self._response.extensions, *self._response.single_extensions)
            self._certificates = self._response.certificates
            for certificate in self._certificates:
                read_through(certificate)
            self._cert_id_hash = self._response.hash_algorithm
            self._signature_hash = self._response.signature_hash_algorithm
        except UnreadableStaple:
            raise
        except UNREADABLE as error:
            raise UnreadableStaple(f"no OCSP response: {error}") from None
        for extension in extensions:
            if extension.critical:
                raise UnreadableStaple(f"unknown critical extension {extension.oid.dotted_string}")

    def judge(
        self,
        certificate: x509.Certificate,
        issuer: x509.Certificate,
        now: float,
        skew_s: float = 0.0,
    ) -> Verdict:
        """Say what this staple proves of a certificate that `issuer` issued.

        A revocation counts whatever its times are; everything else must hold at `now`, or begin to
        hold up to `skew_s` later, since this machine's clock may be slow.
        """
        if not self._speaks_of(certificate, issuer):
            return Verdict(Status.OTHER, "of another certificate")
        problem = self._signature_problem(issuer, now, skew_s)
        if problem:
            return Verdict(Status.UNUSABLE, problem)
        status = self._response.certificate_status
        if status is ocsp.OCSPCertStatus.REVOKED:
            return Verdict(Status.REVOKED, f"revoked on {self._response.revocation_time_utc}")
        if status is not ocsp.OCSPCertStatus.GOOD:
            return Verdict(Status.UNUSABLE, "the responder does not know the certificate")
        this_update, next_update = self._response.this_update_utc, self._response.next_update_utc
        if next_update is None:
            return Verdict(Status.UNUSABLE, "it does not say until when it holds")
        if this_update.timestamp() > now + skew_s:
            problem = f"not valid before {this_update}"
            return Verdict(Status.UNUSABLE, problem, about_time=True)
        if next_update.timestamp() <= now:
            return Verdict(Status.UNUSABLE, f"expired on {next_update}", about_time=True)
        return Verdict(Status.GOOD, f"good until {next_update}", next_update.timestamp())

    def _speaks_of(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
        """Compare the CertID (RFC 6960 4.1.1) with the one that a request would carry."""
        builder = ocsp.OCSPRequestBuilder()
        cert_id = builder.add_certificate(certificate, issuer, self._cert_id_hash).build()
        return (
            self._response.serial_number == cert_id.serial_number
            and self._response.issuer_name_hash == cert_id.issuer_name_hash
            and self._response.issuer_key_hash == cert_id.issuer_key_hash
        )

    def _signature_problem(self, issuer: x509.Certificate, now: float, skew_s: float) -> str | None:
        """Check the signature, by the issuer or by a responder that it delegated to (4.2.2.2)."""
        if self._is_responder(issuer):
            return None if self._signed_by(issuer) else "not signed by the certificate's issuer"
        for certificate in self._certificates:
            if self._is_responder(certificate):
                problem = _delegation_problem(certificate, issuer, now, skew_s)
                if problem:
                    return f"its responder's certificate is {problem}"
                return None if self._signed_by(certificate) else "not signed by its responder"
        return "neither the issuer nor a certificate inside it is the responder that it names"

    def _is_responder(self, certificate: x509.Certificate) -> bool:
        """Whether this is the certificate that the ResponderID (4.2.1) names."""
        if self._response.responder_name is not None:
            return self._response.responder_name == certificate.subject
        key_hash = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
        return self._response.responder_key_hash == key_hash

    def _signed_by(self, certificate: x509.Certificate) -> bool:
        algorithm = self._signature_hash
        key = certificate.public_key()
        if not isinstance(algorithm, _SIGNATURE_HASHES):
            return False
        signature, signed = self._response.signature, self._response.tbs_response_bytes
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, signed, padding.PKCS1v15(), algorithm)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, signed, ec.ECDSA(algorithm))
            else:
                return False
        except InvalidSignature:
            return False
        return True


def _delegation_problem(
    responder: x509.Certificate, issuer: x509.Certificate, now: float, skew_s: float
) -> str | None:
    """Say why the issuer did not delegate OCSP signing to this certificate, or None."""
    try:
        responder.verify_directly_issued_by(issuer)
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return "not issued by the certificate's issuer"
    except x509.ExtensionNotFound:
        return "not made for OCSP signing"
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
        return "not made for OCSP signing"
    if not isinstance(responder.signature_hash_algorithm, _SIGNATURE_HASHES):
        return "signed with a weak hash"
    if not within_validity(responder, now, skew_s):
        return "not valid now"
    return None

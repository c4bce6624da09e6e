"""OCSP staples (RFC 6960), signed when asked for."""

import base64
import datetime
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import ocsp

from eic_sandbox.simulator.pki import Recipe, utc


def unchanged(data: bytes) -> bytes:
    """Tamper with nothing."""
    return data


@dataclass(eq=False)
class Staple:
    """What one staple says of `subject`; change any attribute and it says that instead.

    `issuer` is the CA that the CertID names, by default the subject's; `responder` signs, by
    default that CA; `signing_key` signs in its place. `lifetime_s` None leaves nextUpdate out.
    `tamper` changes the DER after signing. `name` replaces the fingerprint under which metadata
    lists the staple. Times are relative to the moment of the request.
    """

    subject: Recipe
    issuer: Recipe | None = None
    responder: Recipe | None = None
    signing_key: rsa.RSAPrivateKey | None = None
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    age_s: float = 3600.0
    lifetime_s: float | None = 7 * 86400.0
    certid_hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA1)
    signature_hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    responder_encoding: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH
    include_responder: bool = True
    unsuccessful: ocsp.OCSPResponseStatus | None = None
    tamper: Callable[[bytes], bytes] = unchanged
    name: str | None = None
    line_length: int = 76
    _made: tuple[object, bytes] | None = field(default=None, repr=False)

    def text(self, now: float) -> bytes:
        """What metadata serves: base64 of the DER, wrapped at `line_length` (0: not wrapped)."""
        text = base64.b64encode(self.der(now)).decode()
        lines = textwrap.wrap(text, self.line_length) if self.line_length else [text]
        return "\n".join(lines).encode() + b"\n"

    def der(self, now: float) -> bytes:
        """Return the response in DER, signed anew when the second or an attribute has changed."""
        issuer = self.issuer or self.subject.issuer or self.subject
        responder = self.responder or issuer
        recipe = (
            int(now),
            self.subject.certificate,
            issuer.certificate,
            responder.certificate,
            self.signing_key or responder.key,
            self.status,
            self.age_s,
            self.lifetime_s,
            self.certid_hash.name,
            self.signature_hash.name,
            self.responder_encoding,
            self.include_responder,
            self.unsuccessful,
        )
        if self._made is None or self._made[0] != recipe:
            self._made = (recipe, self._sign(now, issuer.certificate, responder))
        return self.tamper(self._made[1])

    def _sign(self, now: float, issuer: x509.Certificate, responder: Recipe) -> bytes:
        if self.unsuccessful is not None:
            response = ocsp.OCSPResponseBuilder.build_unsuccessful(self.unsuccessful)
            return response.public_bytes(serialization.Encoding.DER)
        this_update = utc(now - self.age_s)
        next_update = None
        if self.lifetime_s is not None:
            next_update = this_update + datetime.timedelta(seconds=self.lifetime_s)
        revoked = self.status is ocsp.OCSPCertStatus.REVOKED
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=self.subject.certificate,
                issuer=issuer,
                algorithm=self.certid_hash,
                cert_status=self.status,
                this_update=this_update,
                next_update=next_update,
                revocation_time=this_update if revoked else None,
                revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
            )
            .responder_id(self.responder_encoding, responder.certificate)
        )
        if self.responder is not None and self.include_responder:
            builder = builder.certificates([responder.certificate])
        response = builder.sign(responder.key, self.signature_hash)
        der = response.public_bytes(serialization.Encoding.DER)
        if self.signing_key is None:
            return der
        # The library only signs with the responder's own key: put the other one's in its place.
        signed, scheme = response.tbs_response_bytes, padding.PKCS1v15()
        return der.replace(
            response.signature, self.signing_key.sign(signed, scheme, self.signature_hash)
        )

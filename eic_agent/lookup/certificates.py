"""X.509 certificates, read from PEM one by one, to the last of what is asked of them later."""

import re
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

# No dash within: a search for each END to the end of the document would take quadratic time.
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")

# All that the library raises over bytes that it cannot read.
UNREADABLE = (
    ValueError,
    TypeError,  # a name with a bit string in it
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def read_pem(pem: bytes) -> Iterator[x509.Certificate | ValueError]:
    """Read each certificate of a file, or say what is wrong with it: it costs no other."""
    for match in _PEM.finditer(pem):
        try:
            certificate = x509.load_pem_x509_certificate(match[0])
            read_through(certificate)
        except UNREADABLE as error:
            yield ValueError(str(error))
        else:
            yield certificate


def read_through(certificate: x509.Certificate) -> None:
    """Read what the library would otherwise find broken when it is asked for. Raises ValueError."""
    try:
        certificate.public_key()
        _ = certificate.subject, certificate.issuer, certificate.extensions
    except UNREADABLE as error:
        raise ValueError(str(error)) from None


def within_validity(certificate: x509.Certificate, now: float, skew_s: float) -> bool:
    """Whether `now`, in seconds since the epoch, lies in the certificate's validity period.

    The period may begin up to `skew_s` later, since the clock may be slow; it never ends later.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin.timestamp() <= now + skew_s and now <= end.timestamp()

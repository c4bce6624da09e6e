"""The sandbox's own CA, and TLS for what it serves at loopback names."""

import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from eic_sandbox.simulator.pki import DAY, Recipe
from eic_sandbox.simulator.rsa_keys import rsa_key

CA_BUNDLE = "ca.pem"


def server_tls(directory: Path, now: float) -> ssl.SSLContext:
    """Make a certificate for localhost, and leave that of its CA in the directory."""
    authority = _recipe("EC2 Instance Connect sandbox CA", 1, now)
    server = _recipe("localhost", 2, now, authority)
    server.is_ca = False
    server.organization = None
    server.extended_usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server.extra = [(x509.SubjectAlternativeName(names), False)]
    (directory / CA_BUNDLE).write_bytes(authority.pem)
    chain = directory / "tls.pem"
    chain.touch(mode=0o600)
    private = server.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    chain.write_bytes(private + server.pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    return context


def _recipe(name: str, serial: int, now: float, issuer: Recipe | None = None) -> Recipe:
    return Recipe(
        common_name=name,
        key=rsa_key(f"sandbox {name}"),
        serial=serial,
        not_before=now - DAY,
        not_after=now + 365 * DAY,
        issuer=issuer,
        organization="EC2 Instance Connect sandbox",
    )

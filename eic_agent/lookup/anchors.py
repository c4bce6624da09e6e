"""Trust anchors: the certificates in which the path to a signer may end, and where they are.

Only the configuration chooses them. Metadata says in which partition an instance is, and whoever
answers in its place says what suits him: of the system's many authorities one leaked key would do.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import verification

from eic_agent.errors import ConfigError
from eic_agent.lookup.certificates import read_pem

AMAZON_ROOTS = {
    "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e": "Amazon Root CA 1",
    "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4": "Amazon Root CA 2",
    "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4": "Amazon Root CA 3",
    "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092": "Amazon Root CA 4",
    "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5": "Starfield Services G2",
}

# Rules that mean these roots, whatever metadata says.
SHIPPED = ("auto", "amazon")

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


def load_anchors(rule: str, stores: Iterable[Path] = SYSTEM_STORES) -> TrustAnchors:
    """Load the anchors that `[trust] anchors` names. Raises ConfigError where there are none."""
    if rule in SHIPPED:
        return load_amazon_roots()
    path = anchor_file(rule, stores)
    if path is None:
        raise ConfigError(
            "[trust] anchors: this system keeps no certificates where we look "
            f"({', '.join(str(path) for path in stores)}); "
            'install its ca-certificates package, or set anchors to "amazon" or to a path'
        )
    return _read_anchors(path)


def anchor_file(rule: str, stores: Iterable[Path] = SYSTEM_STORES) -> Path | None:
    """Say which file a rule means; None for what ships with us, or a system without a store."""
    if rule in SHIPPED:
        return None
    if rule != "system":
        return Path(rule)
    # Path's own is_file raises in a directory closed to us.
    return next((path for path in stores if os.path.isfile(path)), None)  # noqa: PTH113


def load_amazon_roots() -> TrustAnchors:
    """Load the Amazon roots that ship with the package, each checked by the hash of its DER."""
    pem = resources.files("eic_agent").joinpath("data/amazon-trust-services-roots.pem").read_bytes()
    anchors = _parse_anchors("Amazon Trust Services roots", pem)
    found = {c.fingerprint(hashes.SHA256()).hex() for c in anchors.certificates}
    if found != AMAZON_ROOTS.keys() or anchors.skipped:
        raise ConfigError(
            "the Amazon roots that ship with eic-agent are damaged; install the package again"
        )
    return anchors


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
    for number, certificate in enumerate(read_pem(pem), start=1):
        if isinstance(certificate, ValueError):
            skipped.append(f"{source}: certificate {number} skipped: {certificate}")
        else:
            certificates.append(certificate)
    return TrustAnchors(source, tuple(certificates), tuple(skipped))

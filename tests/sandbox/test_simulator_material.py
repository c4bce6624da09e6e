"""`cryptography` and OpenSSL accept the simulator's certificates, staples and blocks."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import ocsp, verification

from eic_sandbox.simulator import KEY_TYPES, MetadataSimulator, Recipe, new_key
from eic_sandbox.simulator.pki import utc
from eic_sandbox.simulator.simulator import ACTIVE_KEYS, SIGNER_CERT, SIGNER_OCSP
from tests import support

NAME = "managed-ssh-signer.us-east-1.amazonaws.com"


@pytest.fixture
def sim() -> MetadataSimulator:
    return MetadataSimulator()


def built_path(sim: MetadataSimulator, name: str = NAME) -> list[x509.Certificate]:
    """Verify the served chain as a TLS client does and return the path from leaf to anchor."""
    anchors = x509.load_pem_x509_certificates(sim.anchors_pem)
    leaf, *others = x509.load_pem_x509_certificates(sim.get(SIGNER_CERT)[1])
    policy = verification.PolicyBuilder().store(verification.Store(anchors)).time(utc(sim.now))
    return policy.build_server_verifier(x509.DNSName(name)).verify(leaf, others)


def test_the_path_ends_at_the_self_signed_root_though_a_cross_signed_one_is_served(
    sim: MetadataSimulator,
) -> None:
    sim.chain.append(sim.pki.cross_other_root)
    assert [certificate.subject for certificate in built_path(sim)] == [
        sim.pki.leaf.name,
        sim.pki.intermediate.name,
        sim.pki.root.name,
    ]
    assert sim.pki.cross_root.certificate.issuer != sim.pki.cross_root.certificate.subject


def test_openssl_verifies_the_chain_strictly(sim: MetadataSimulator, tmp_path: Path) -> None:
    openssl = support.program("openssl", "openssl")
    (tmp_path / "root.pem").write_bytes(sim.anchors_pem)
    (tmp_path / "chain.pem").write_bytes(sim.get(SIGNER_CERT)[1])
    command = [openssl, "verify", "-x509_strict", "-purpose", "sslserver"]
    command += ["-verify_hostname", NAME, "-CAfile", "root.pem", "-untrusted", "chain.pem"]
    subprocess.run([*command, "chain.pem"], cwd=tmp_path, check=True, capture_output=True)


def test_changing_an_attribute_changes_the_certificate_and_nothing_else_does(
    sim: MetadataSimulator,
) -> None:
    before = sim.pki.leaf.certificate
    assert sim.pki.leaf.certificate is before
    sim.pki.leaf.dns_names = ["elsewhere.example"]
    assert sim.pki.leaf.certificate.serial_number == before.serial_number
    with pytest.raises(verification.VerificationError):
        built_path(sim)
    assert len(built_path(sim, "elsewhere.example")) == 3


@pytest.mark.parametrize("delegated", [False, True], ids=["issuer", "delegated responder"])
@pytest.mark.parametrize("certid_hash", [hashes.SHA1(), hashes.SHA256()])
def test_openssl_verifies_the_staples(
    sim: MetadataSimulator, tmp_path: Path, certid_hash: hashes.HashAlgorithm, delegated: bool
) -> None:
    openssl = support.program("openssl", "openssl")
    staple = sim.staples["leaf"]
    staple.certid_hash = certid_hash
    if delegated:
        staple.responder = sim.pki.responder(sim.pki.intermediate)
    (tmp_path / "staple.der").write_bytes(served_staple(sim, sim.pki.leaf))
    (tmp_path / "leaf.pem").write_bytes(sim.pki.leaf.pem)
    (tmp_path / "issuer.pem").write_bytes(sim.pki.intermediate.pem)
    (tmp_path / "root.pem").write_bytes(sim.anchors_pem)
    command = [openssl, "ocsp", "-respin", "staple.der", f"-{certid_hash.name}"]
    command += ["-issuer", "issuer.pem", "-cert", "leaf.pem", "-CAfile", "root.pem"]
    # openssl finds a responder that is the issuer itself only among extra certificates.
    command += ["-verify_other", "issuer.pem"]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "Response verify OK" in result.stderr
    assert "leaf.pem: good" in result.stdout


def served_staple(sim: MetadataSimulator, recipe: Recipe) -> bytes:
    name = recipe.fingerprint(sim.staple_names)
    assert name.encode() in sim.get(SIGNER_OCSP)[1].split()
    return base64.b64decode(sim.get(SIGNER_OCSP + name)[1])


def test_staples_are_fresh_whenever_they_are_fetched(sim: MetadataSimulator) -> None:
    for moment in (1_900_000_000.0, 1_900_003_600.0):
        sim.now = moment
        response = ocsp.load_der_ocsp_response(served_staple(sim, sim.pki.intermediate))
        assert response.this_update_utc == utc(moment - sim.staples["intermediate"].age_s)


def test_a_revoked_staple_named_by_sha256(sim: MetadataSimulator) -> None:
    sim.staple_names = "sha256"
    sim.staples["leaf"].status = ocsp.OCSPCertStatus.REVOKED
    response = ocsp.load_der_ocsp_response(served_staple(sim, sim.pki.leaf))
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED


def test_a_block_is_signed_as_the_protocol_says(sim: MetadataSimulator) -> None:
    key = new_key()
    sim.now = 1738233600.5
    sim.push("alice", key.line + " a comment", caller="arn:a", request="r-1")
    head, separator, tail = sim.get(ACTIVE_KEYS + "alice/")[1].partition(b"a comment\n")
    expected = f"#Timestamp=1738233660\n#Instance={sim.instance_id}\n#Caller=arn:a\n#Request=r-1\n"
    assert head.decode() == expected + key.line + " "
    signer = sim.pki.leaf.certificate.public_key()
    assert isinstance(signer, rsa.RSAPublicKey)
    signer.verify(
        base64.b64decode(tail),
        head + separator,
        padding.PSS(padding.MGF1(hashes.SHA256()), 32),
        hashes.SHA256(),
    )


def test_a_rotated_signer_signs_the_blocks_that_are_served(sim: MetadataSimulator) -> None:
    sim.push("alice", new_key())
    before = sim.get(ACTIVE_KEYS + "alice/")[1]
    old = sim.pki.leaf.certificate.public_key()
    sim.rotate_signer()
    assert built_path(sim)[0].public_key() == sim.pki.leaf.certificate.public_key() != old
    assert sim.get(ACTIVE_KEYS + "alice/")[1] != before


def test_keys_are_served_only_so_long_as_they_linger(sim: MetadataSimulator) -> None:
    sim.now = 1738233600.0
    sim.push("alice", new_key())
    sim.linger_s = 0.0
    assert sim.get(ACTIVE_KEYS) == (200, b"alice")
    sim.now = 1738233660.0
    assert sim.get(ACTIVE_KEYS + "alice/") == (404, b"")
    assert sim.get(ACTIVE_KEYS) == (404, b"")


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_ssh_keygen_reads_every_key_and_computes_its_fingerprints(
    key_type: str, tmp_path: Path
) -> None:
    ssh_keygen = support.program("ssh-keygen", "openssh-client")
    key = new_key(key_type)
    (tmp_path / "key.pub").write_text(key.line + "\n")

    def fingerprint(algorithm: str) -> str:
        command = [ssh_keygen, "-l", "-E", algorithm, "-f", "key.pub"]
        return subprocess.check_output(command, cwd=tmp_path, text=True).split()[1]

    assert fingerprint("sha256") == key.fingerprint
    assert fingerprint("md5") == key.md5_fingerprint
    if key.private is not None:
        (tmp_path / "key").write_bytes(key.private_openssh)
        (tmp_path / "key").chmod(0o600)
        command = [ssh_keygen, "-y", "-P", "", "-f", "key"]
        assert subprocess.check_output(command, cwd=tmp_path, text=True).strip() == key.line


def test_a_partition_of_its_own(tmp_path: Path) -> None:
    sim = MetadataSimulator(region="cn-north-1", domain="amazonaws.com.cn", partition="aws-cn")
    assert len(built_path(sim, "managed-ssh-signer.cn-north-1.amazonaws.com.cn")) == 3
    pem = sim.pki.leaf.certificate.public_bytes(serialization.Encoding.PEM)
    assert sim.get(SIGNER_CERT)[1].startswith(pem)

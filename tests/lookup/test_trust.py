"""From served certificates and staples to a signer, and every way in which that must fail."""

import base64
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from eic_agent.errors import Reason, UntrustedMaterial
from eic_agent.lookup import trust
from eic_agent.lookup.anchors import TrustAnchors
from eic_agent.lookup.keyblock import KeyBlock, parse_blocks
from eic_sandbox.simulator import MetadataSimulator, another_rsa_key, new_key

NOW = 1_800_000_000.0
DAY = 86400.0
NAME = "managed-ssh-signer.us-east-1.amazonaws.com"
REQUIRE = trust.TrustRules()
IF_STAPLED = trust.TrustRules(revocation="if-stapled")


@pytest.fixture
def sim() -> MetadataSimulator:
    return MetadataSimulator(now=NOW)


def chain(sim: MetadataSimulator) -> bytes:
    return b"".join(recipe.pem for recipe in sim.chain)


def anchors(sim: MetadataSimulator) -> TrustAnchors:
    return TrustAnchors("the test's root", (sim.pki.root.certificate,))


def path(sim: MetadataSimulator, now: float = NOW) -> trust.SignerPath:
    return trust.build_path(chain(sim), NAME, anchors(sim), now)


def signer(
    sim: MetadataSimulator, rules: trust.TrustRules = REQUIRE, now: float = NOW
) -> trust.TrustedSigner:
    staples = {name: staple.der(NOW) for name, staple in sim.staples.items()}
    return trust.check_revocation(path(sim, now), staples, NAME, rules, now)


def refused(sim: MetadataSimulator, rules: trust.TrustRules = REQUIRE) -> Reason:
    with pytest.raises(UntrustedMaterial) as caught:
        signer(sim, rules)
    assert caught.value.detail
    return caught.value.reason


# Paths


def test_the_path_ends_in_the_anchor_and_leaves_the_cross_signed_root_out(
    sim: MetadataSimulator,
) -> None:
    built = path(sim)
    pki = sim.pki
    assert built.certificates == tuple(
        recipe.certificate for recipe in (pki.leaf, pki.intermediate, pki.root)
    )
    assert built.unused == (pki.cross_root.certificate,)


def test_the_chain_may_come_in_any_order_with_more_and_with_rubbish(
    sim: MetadataSimulator,
) -> None:
    pki = sim.pki
    sim.chain = [pki.leaf, pki.cross_other_root, pki.cross_root, pki.root, pki.intermediate]
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    served = b"junk\n" + chain(sim) + broken + b"junk"
    built = trust.build_path(served, NAME, anchors(sim), NOW)
    assert len(built.certificates) == 3
    assert len(built.unused) == 2


def test_a_path_over_the_cross_signed_root_needs_its_staple(sim: MetadataSimulator) -> None:
    others = TrustAnchors("another root", (sim.pki.other_root.certificate,))
    built = trust.build_path(chain(sim), NAME, others, NOW)
    assert len(built.certificates) == 4
    staples = {name: staple.der(NOW) for name, staple in sim.staples.items()}
    trust.check_revocation(built, staples, NAME, REQUIRE, NOW)
    del staples["cross_root"]
    with pytest.raises(UntrustedMaterial) as caught:
        trust.check_revocation(built, staples, NAME, REQUIRE, NOW)
    assert caught.value.reason is Reason.NO_VALID_STAPLE


def no_chain(sim: MetadataSimulator) -> None:
    sim.chain = []


def without_intermediate(sim: MetadataSimulator) -> None:
    sim.chain.remove(sim.pki.intermediate)


def expired_leaf(sim: MetadataSimulator) -> None:
    sim.pki.leaf.not_after = NOW - 1


def future_leaf(sim: MetadataSimulator) -> None:
    sim.pki.leaf.not_before = NOW + 60


def expired_intermediate(sim: MetadataSimulator) -> None:
    sim.pki.intermediate.not_after = NOW - 1


def leaf_signed_by_a_stranger(sim: MetadataSimulator) -> None:
    sim.pki.leaf.signing_key = another_rsa_key()


def leaf_by_another_root(sim: MetadataSimulator) -> None:
    sim.pki.leaf.issuer = sim.pki.other_root
    sim.chain = [sim.pki.leaf, sim.pki.other_root]


def leaf_issued_by_a_leaf(sim: MetadataSimulator) -> None:
    server = sim.pki.server("www.example.com", purpose="www")
    sim.pki.leaf.issuer = server
    sim.chain.insert(1, server)


def leaf_for_clients(sim: MetadataSimulator) -> None:
    sim.pki.leaf.extended_usages = [ExtendedKeyUsageOID.CLIENT_AUTH]


def leaf_that_is_an_authority(sim: MetadataSimulator) -> None:
    sim.pki.leaf.is_ca = True


def short_rsa_key(sim: MetadataSimulator) -> None:
    sim.pki.leaf.key = rsa.generate_private_key(65537, 1024)


def elliptic_curve_key(sim: MetadataSimulator) -> None:
    sim.pki.leaf.key = ec.generate_private_key(ec.SECP256R1())


def self_signed_leaf(sim: MetadataSimulator) -> None:
    sim.pki.leaf.issuer = None


@pytest.mark.parametrize(
    "attack",
    [
        no_chain,
        without_intermediate,
        expired_leaf,
        future_leaf,
        expired_intermediate,
        leaf_signed_by_a_stranger,
        leaf_by_another_root,
        leaf_issued_by_a_leaf,
        leaf_for_clients,
        leaf_that_is_an_authority,
        short_rsa_key,
        elliptic_curve_key,
        self_signed_leaf,
    ],
)
def test_a_chain_that_does_not_prove_the_leaf_is_refused(
    sim: MetadataSimulator, attack: Callable[[MetadataSimulator], None]
) -> None:
    attack(sim)
    assert refused(sim) is Reason.UNTRUSTED_CHAIN


def test_a_key_of_1024_bits_is_refused_by_us_not_only_by_the_library(
    sim: MetadataSimulator,
) -> None:
    short_rsa_key(sim)
    built = trust.SignerPath((sim.pki.leaf.certificate, sim.pki.intermediate.certificate))
    staples = {"leaf": sim.staples["leaf"].der(NOW)}
    with pytest.raises(UntrustedMaterial, match="2048 bits"):
        trust.check_revocation(built, staples, NAME, REQUIRE, NOW)


def test_a_leaf_that_cannot_be_read_is_refused(sim: MetadataSimulator) -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(UntrustedMaterial, match="cannot be read") as caught:
        trust.build_path(broken + chain(sim), NAME, anchors(sim), NOW)
    assert caught.value.reason is Reason.UNTRUSTED_CHAIN


def utf8_string(text: str, tag: int = 0x0C, content: int | None = None) -> bytes:
    """Encode a text of ASCII as a name has it in DER, or with another tag or other bytes."""
    data = text.encode() if content is None else bytes([content]) * len(text)
    return bytes([tag, len(text)]) + data


def leaf_with_a_bit_string_as_name(sim: MetadataSimulator) -> bytes:
    return sim.pki.leaf.der.replace(utf8_string(NAME), utf8_string(NAME, tag=0x03))


def leaf_with_a_name_that_is_no_text(sim: MetadataSimulator) -> bytes:
    return sim.pki.leaf.der.replace(utf8_string(NAME), utf8_string(NAME, content=0xFF))


def leaf_of_a_version_that_is_none(sim: MetadataSimulator) -> bytes:
    return sim.pki.leaf.der.replace(bytes.fromhex("a003 020102"), bytes.fromhex("a003 020109"), 1)


def leaf_with_an_alternative_name_of_a_kind_that_nobody_reads(sim: MetadataSimulator) -> bytes:
    sim.pki.leaf.omit = {x509.SubjectAlternativeName}
    x400_address = bytes.fromhex("3004 a302 3000")
    oid = x509.SubjectAlternativeName.oid
    sim.pki.leaf.extra = [(x509.UnrecognizedExtension(oid, x400_address), False)]
    return sim.pki.leaf.der


@pytest.mark.parametrize(
    "make",
    [
        leaf_with_a_bit_string_as_name,
        leaf_with_a_name_that_is_no_text,
        leaf_of_a_version_that_is_none,
        leaf_with_an_alternative_name_of_a_kind_that_nobody_reads,
    ],
)
def test_a_leaf_that_is_only_found_broken_when_it_is_asked_is_refused(
    sim: MetadataSimulator, make: Callable[[MetadataSimulator], bytes]
) -> None:
    body = base64.encodebytes(make(sim))
    broken = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
    with pytest.raises(UntrustedMaterial, match="cannot be read") as caught:
        trust.build_path(broken + chain(sim), NAME, anchors(sim), NOW)
    assert caught.value.reason is Reason.UNTRUSTED_CHAIN


def test_a_certificate_that_only_begins_costs_no_other(sim: MetadataSimulator) -> None:
    begun = b"-----BEGIN CERTIFICATE-----\nAAAA\n"
    assert len(trust.build_path(begun + chain(sim), NAME, anchors(sim), NOW).certificates) == 3


def test_authorities_that_could_all_have_issued_each_other_end_the_search(
    sim: MetadataSimulator,
) -> None:
    """Each of their orders is a path to look at: without a bound this test never ends."""
    authorities = [sim.pki.authority("Any of us") for _ in range(20)]
    for authority in authorities:
        authority.omit = {x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier}
    sim.pki.leaf.issuer = authorities[0]
    sim.chain = [sim.pki.leaf, *authorities]
    assert refused(sim) is Reason.UNTRUSTED_CHAIN


def another_name(sim: MetadataSimulator) -> None:
    sim.pki.leaf.common_name = "www.example.com"
    sim.pki.leaf.dns_names = ["www.example.com"]


def another_region(sim: MetadataSimulator) -> None:
    sim.pki.leaf.dns_names = [NAME.replace("us-east-1", "us-west-2")]


def only_a_wildcard(sim: MetadataSimulator) -> None:
    sim.pki.leaf.dns_names = ["*.us-east-1.amazonaws.com"]


def only_a_common_name(sim: MetadataSimulator) -> None:
    sim.pki.leaf.dns_names = []


def another_common_name(sim: MetadataSimulator) -> None:
    sim.pki.leaf.common_name = "managed-ssh-signer.us-west-2.amazonaws.com"


@pytest.mark.parametrize(
    "attack",
    [another_name, another_region, only_a_wildcard, only_a_common_name, another_common_name],
)
def test_a_leaf_that_does_not_name_the_signer_literally_is_refused(
    sim: MetadataSimulator, attack: Callable[[MetadataSimulator], None]
) -> None:
    attack(sim)
    assert refused(sim) is Reason.WRONG_SIGNER_NAME


def test_a_leaf_may_have_more_names_and_no_common_name(sim: MetadataSimulator) -> None:
    sim.pki.leaf.common_name = None
    sim.pki.leaf.dns_names = ["other.example", NAME]
    sim.pki.leaf.organization = "Somebody"
    assert signer(sim).name == NAME


# Staples


def test_a_signer_is_trusted_until_the_first_of_all_limits(sim: MetadataSimulator) -> None:
    assert signer(sim).valid_until == NOW + REQUIRE.max_cache_s
    assert signer(sim, trust.TrustRules(max_cache_s=300)).valid_until == NOW + 300
    long = trust.TrustRules(max_cache_s=1e9)
    assert signer(sim, long).valid_until == min(
        NOW + staple.lifetime_s - staple.age_s
        for staple in sim.staples.values()
        if staple.lifetime_s
    )
    sim.staples["intermediate"].lifetime_s = 3600 + 77
    assert signer(sim, long).valid_until == NOW + 77
    sim.pki.leaf.not_after = NOW + 33
    assert signer(sim, long).valid_until == NOW + 33


@pytest.mark.parametrize("which", ["leaf", "intermediate"])
def test_every_certificate_below_the_anchor_needs_its_own_staple(
    sim: MetadataSimulator, which: str
) -> None:
    del sim.staples[which]
    assert refused(sim) is Reason.NO_VALID_STAPLE
    assert signer(sim, IF_STAPLED).name == NAME


def test_the_cross_signed_root_off_the_path_needs_none(sim: MetadataSimulator) -> None:
    del sim.staples["cross_root"]
    assert signer(sim).name == NAME


@pytest.mark.parametrize("rules", [REQUIRE, IF_STAPLED])
@pytest.mark.parametrize("which", ["leaf", "intermediate"])
def test_a_revoked_certificate_is_refused_also_where_a_good_staple_stands_beside(
    sim: MetadataSimulator, which: str, rules: trust.TrustRules
) -> None:
    good = sim.staples[which]
    revoked = type(good)(good.subject, status=ocsp.OCSPCertStatus.REVOKED, name="ANY-NAME")
    sim.staples["another"] = revoked
    assert refused(sim, rules) is Reason.REVOKED


@pytest.mark.parametrize("rules", [REQUIRE, IF_STAPLED])
def test_a_staple_that_proves_nothing_is_refused_though_none_were_required(
    sim: MetadataSimulator, rules: trust.TrustRules
) -> None:
    sim.staples["leaf"].age_s = 30 * DAY
    assert refused(sim, rules) is Reason.NO_VALID_STAPLE


def test_a_good_staple_beside_an_expired_one_is_enough(sim: MetadataSimulator) -> None:
    leaf = sim.staples["leaf"]
    sim.staples["old"] = type(leaf)(leaf.subject, age_s=30 * DAY)
    assert signer(sim).name == NAME


def test_staples_that_cannot_be_read_are_named(sim: MetadataSimulator) -> None:
    sim.staples["leaf"].tamper = lambda der: der[:100]
    with pytest.raises(UntrustedMaterial, match="staple leaf: no OCSP response") as caught:
        signer(sim)
    assert caught.value.reason is Reason.NO_VALID_STAPLE


def test_a_staple_need_not_be_fetched_only_where_it_is_a_certificates_off_the_path(
    sim: MetadataSimulator,
) -> None:
    built = path(sim)
    for algorithm in ("sha1", "sha256"):
        assert not built.needs_staple(sim.pki.cross_root.fingerprint(algorithm))
        assert not built.needs_staple(sim.pki.cross_root.fingerprint(algorithm).lower())
        assert built.needs_staple(sim.pki.leaf.fingerprint(algorithm))
    assert built.needs_staple("any other name")


# Signatures


def parsed(sim: MetadataSimulator) -> KeyBlock:
    _, document = sim.get("/latest/meta-data/managed-ssh-keys/active-keys/alice/")
    (block,) = parse_blocks(document)
    assert isinstance(block, KeyBlock)
    return block


def test_only_the_signers_own_signature_over_every_byte_counts(sim: MetadataSimulator) -> None:
    pushed = sim.push("alice", new_key())
    trusted = signer(sim)
    assert trust.signed_by(parsed(sim), trusted)
    pushed.tamper = lambda text: text.replace(b"role/Admin/alice", b"role/Admin/mallo")
    assert not trust.signed_by(parsed(sim), trusted)
    pushed.tamper = lambda text: text.replace(b"#Request=", b"#request=")
    assert not trust.signed_by(parsed(sim), trusted)


@pytest.mark.parametrize(
    "change",
    [
        {"signing_key": another_rsa_key()},
        {"salt_length": 20},
        {"signature_hash": hashes.SHA512()},
        {"signature_padding": padding.PKCS1v15()},
    ],
)
def test_any_other_key_salt_hash_or_padding_is_no_signature(
    sim: MetadataSimulator, change: dict[str, object]
) -> None:
    pushed = sim.push("alice", new_key())
    for name, value in change.items():
        setattr(pushed, name, value)
    assert not trust.signed_by(parsed(sim), signer(sim))


def test_the_signer_is_judged_at_the_time_given(sim: MetadataSimulator) -> None:
    later = NOW + 400 * DAY
    with pytest.raises(UntrustedMaterial) as caught:
        path(sim, later)
    assert caught.value.reason is Reason.UNTRUSTED_CHAIN

"""Every attack that we could think of on what metadata says, and the reason that stops it.

docs/threat-model.md names these tests.
"""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from eic_agent.configuration import config
from eic_agent.errors import Reason
from eic_agent.lookup import signers
from eic_agent.lookup.anchors import load_anchors
from eic_agent.lookup.trust import TrustRules
from eic_sandbox.simulator import MetadataSimulator, SignerPKI, another_rsa_key, new_key
from tests.lookup.rig import ALICES_KEY, NOW, Rig, make_rig, only

META = "/latest/meta-data/"
Attack = Callable[[MetadataSimulator], object]


def attacker_pki(sim: MetadataSimulator, name: str) -> None:
    """Everything as it should be, by a certificate for the attacker's own domain."""
    leaf = sim.pki.server(name, purpose="the attacker's")
    sim.chain[0] = sim.pki.leaf = leaf
    sim.staples["leaf"].subject = leaf


def domain_of_the_attacker(sim: MetadataSimulator) -> None:
    sim.domain = "attacker.example"
    attacker_pki(sim, "managed-ssh-signer.us-east-1.attacker.example")


def region_of_the_attacker(sim: MetadataSimulator, region: str) -> None:
    """A region whose name the library refuses to look for in any certificate."""
    sim.region = region
    attacker_pki(sim, f"managed-ssh-signer.{region}.amazonaws.com")
    sim.pki.leaf.common_name = None  # it has room for 64 characters


def name_that_cannot_be_read(sim: MetadataSimulator) -> None:
    """A common name that is a bit string: the library says so when it is asked for the subject."""
    name = b"managed-ssh-signer.us-east-1.amazonaws.com"
    der = sim.pki.leaf.der.replace(bytes([0x0C, len(name)]) + name, bytes([3, len(name)]) + name)
    body = base64.encodebytes(der)
    sim.documents[META + "managed-ssh-keys/signer-cert/"] = (
        b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
    )


def responder_that_cannot_be_read(sim: MetadataSimulator) -> None:
    """The same in the responder's certificate, which no signature of the staple covers."""
    staple = sim.staples["leaf"]
    staple.responder = sim.pki.responder(sim.pki.intermediate)
    staple.responder_encoding = ocsp.OCSPResponderEncoding.NAME

    def tamper(der: bytes) -> bytes:
        signed, name, certificate = der.rpartition(b"\x0c\x18Simulated OCSP Responder")
        return signed + b"\x03" + name[1:] + certificate

    staple.tamper = tamper


def root_of_the_attacker(sim: MetadataSimulator) -> None:
    sim.pki.leaf.issuer = sim.pki.oldest_root
    sim.chain.append(sim.pki.oldest_root)


def root_with_another_key(sim: MetadataSimulator) -> None:
    sim.pki.intermediate.signing_key = another_rsa_key()
    sim.chain.append(sim.pki.root)


def leaf_by_a_server(sim: MetadataSimulator) -> None:
    server = sim.pki.server("www.attacker.example", None, "www")
    sim.pki.leaf.issuer = server
    sim.chain.insert(1, server)


def staple_under_a_false_name(sim: MetadataSimulator) -> None:
    sim.staples["intermediate"].name = sim.pki.leaf.fingerprint("sha1")
    del sim.staples["leaf"]


SIGNER_ATTACKS: dict[str, tuple[Attack, Reason]] = {
    "a certificate for another domain": (
        lambda sim: attacker_pki(sim, "managed-ssh-signer.us-east-1.attacker.example"),
        Reason.WRONG_SIGNER_NAME,
    ),
    "metadata says the attacker's domain": (
        domain_of_the_attacker,
        Reason.UNKNOWN_DOMAIN,
    ),
    "a domain that ends like Amazon's": (
        lambda sim: setattr(sim, "domain", "amazonaws.com.attacker.example"),
        Reason.UNKNOWN_DOMAIN,
    ),
    "the domain of another partition": (
        lambda sim: setattr(sim, "domain", "amazonaws.com.cn"),
        Reason.UNKNOWN_DOMAIN,
    ),
    "a region that is no region": (
        lambda sim: setattr(sim, "region", "us-east-1.attacker.example/"),
        Reason.UNKNOWN_DOMAIN,
    ),
    "a region that no name can hold": (
        lambda sim: region_of_the_attacker(sim, "us-" + "e" * 61 + "-1"),
        Reason.UNKNOWN_DOMAIN,
    ),
    "a region that is no label of a name": (
        lambda sim: region_of_the_attacker(sim, "us-_-1"),
        Reason.UNKNOWN_DOMAIN,
    ),
    "the signer of another region": (
        lambda sim: attacker_pki(sim, "managed-ssh-signer.us-west-2.amazonaws.com"),
        Reason.WRONG_SIGNER_NAME,
    ),
    "metadata names another region than its signer": (
        lambda sim: setattr(sim, "region", "us-west-2"),
        Reason.WRONG_SIGNER_NAME,
    ),
    "a wildcard certificate": (
        lambda sim: setattr(sim.pki.leaf, "dns_names", ["*.us-east-1.amazonaws.com"]),
        Reason.WRONG_SIGNER_NAME,
    ),
    "another common name": (
        lambda sim: setattr(sim.pki.leaf, "common_name", "www.attacker.example"),
        Reason.WRONG_SIGNER_NAME,
    ),
    "no alternative name": (
        lambda sim: setattr(sim.pki.leaf, "dns_names", []),
        Reason.WRONG_SIGNER_NAME,
    ),
    "a PKI of the attacker's": (
        lambda sim: setattr(sim.pki.intermediate, "issuer", sim.pki.oldest_root),
        Reason.UNTRUSTED_CHAIN,
    ),
    "the attacker's root sent along": (
        root_of_the_attacker,
        Reason.UNTRUSTED_CHAIN,
    ),
    "a root of the right name with another key": (
        root_with_another_key,
        Reason.UNTRUSTED_CHAIN,
    ),
    "a leaf issued by a server's certificate": (
        leaf_by_a_server,
        Reason.UNTRUSTED_CHAIN,
    ),
    "an expired leaf": (
        lambda sim: setattr(sim.pki.leaf, "not_after", NOW - 1),
        Reason.UNTRUSTED_CHAIN,
    ),
    "a leaf that is not valid yet": (
        lambda sim: setattr(sim.pki.leaf, "not_before", NOW + 241),
        Reason.UNTRUSTED_CHAIN,
    ),
    "a certificate for other uses": (
        lambda sim: setattr(
            sim.pki.leaf, "extended_usages", [ExtendedKeyUsageOID.EMAIL_PROTECTION]
        ),
        Reason.UNTRUSTED_CHAIN,
    ),
    "a short RSA key": (
        lambda sim: setattr(sim.pki.leaf, "key", rsa.generate_private_key(65537, 1024)),
        Reason.UNTRUSTED_CHAIN,
    ),
    "no chain at all": (
        lambda sim: sim.documents.update({META + "managed-ssh-keys/signer-cert/": b"nothing\n"}),
        Reason.UNTRUSTED_CHAIN,
    ),
    "a chain of rubbish": (
        lambda sim: sim.documents.update(
            {
                META + "managed-ssh-keys/signer-cert/": b"-----BEGIN CERTIFICATE-----\n"
                b"MIIB\n-----END CERTIFICATE-----\n"
            }
        ),
        Reason.UNTRUSTED_CHAIN,
    ),
    "a revoked leaf": (
        lambda sim: setattr(sim.staples["leaf"], "status", ocsp.OCSPCertStatus.REVOKED),
        Reason.REVOKED,
    ),
    "a revoked intermediate": (
        lambda sim: setattr(sim.staples["intermediate"], "status", ocsp.OCSPCertStatus.REVOKED),
        Reason.REVOKED,
    ),
    "a good staple in front of a revoked one": (
        lambda sim: sim.staples.update(
            another=type(sim.staples["leaf"])(
                sim.pki.leaf, status=ocsp.OCSPCertStatus.REVOKED, name="0" * 40
            )
        ),
        Reason.REVOKED,
    ),
    "no staples": (lambda sim: sim.staples.clear(), Reason.NO_VALID_STAPLE),
    "no staple for the leaf": (lambda sim: sim.staples.pop("leaf"), Reason.NO_VALID_STAPLE),
    "no staple for the intermediate": (
        lambda sim: sim.staples.pop("intermediate"),
        Reason.NO_VALID_STAPLE,
    ),
    "an old staple": (
        lambda sim: setattr(sim.staples["leaf"], "age_s", 8 * 86400.0),
        Reason.NO_VALID_STAPLE,
    ),
    "a staple of tomorrow": (
        lambda sim: setattr(sim.staples["leaf"], "age_s", -86400.0),
        Reason.NO_VALID_STAPLE,
    ),
    "a staple without end": (
        lambda sim: setattr(sim.staples["leaf"], "lifetime_s", None),
        Reason.NO_VALID_STAPLE,
    ),
    "a staple of another certificate under the leaf's name": (
        staple_under_a_false_name,
        Reason.NO_VALID_STAPLE,
    ),
    "a staple signed by the leaf": (
        lambda sim: setattr(sim.staples["leaf"], "responder", sim.pki.leaf),
        Reason.NO_VALID_STAPLE,
    ),
    "a staple signed by a stranger": (
        lambda sim: setattr(sim.staples["leaf"], "signing_key", another_rsa_key()),
        Reason.NO_VALID_STAPLE,
    ),
    "a responder delegated by somebody else": (
        lambda sim: setattr(sim.staples["leaf"], "responder", sim.pki.responder(sim.pki.root)),
        Reason.NO_VALID_STAPLE,
    ),
    "a staple that is none": (
        lambda sim: setattr(sim.staples["leaf"], "tamper", lambda der: b"\0" + der),
        Reason.NO_VALID_STAPLE,
    ),
    "a certificate whose name cannot be read": (
        name_that_cannot_be_read,
        Reason.UNTRUSTED_CHAIN,
    ),
    "a staple whose responder's name cannot be read": (
        responder_that_cannot_be_read,
        Reason.NO_VALID_STAPLE,
    ),
    "a staple that is not base64": (
        lambda sim: sim.documents.update(
            {META + "managed-ssh-keys/signer-ocsp/" + sim.pki.leaf.fingerprint("sha1"): b"\xff*"}
        ),
        Reason.NO_VALID_STAPLE,
    ),
    "a staple whose name leads elsewhere": (
        lambda sim: sim.documents.update(
            {META + "managed-ssh-keys/signer-ocsp/": b"../../../../latest/user-data"}
        ),
        Reason.NO_VALID_STAPLE,
    ),
}


@pytest.mark.parametrize("name", SIGNER_ATTACKS)
def test_attacks_on_the_signer(rig: Rig, name: str) -> None:
    attack, reason = SIGNER_ATTACKS[name]
    attack(rig.sim)
    answer = rig.ask()
    assert not answer.lines
    decision = only(answer)
    assert decision.reason is reason
    assert decision.detail
    assert decision.caller is None
    assert decision.request is None


BLOCK_ATTACKS: dict[str, tuple[dict[str, object], Reason]] = {
    "signed by another key": ({"signing_key": another_rsa_key()}, Reason.BAD_SIGNATURE),
    "another salt length": ({"salt_length": 20}, Reason.BAD_SIGNATURE),
    "another hash": ({"signature_hash": hashes.SHA512()}, Reason.BAD_SIGNATURE),
    "PKCS#1 v1.5": ({"signature_padding": padding.PKCS1v15()}, Reason.BAD_SIGNATURE),
    "the caller changed": (
        {"tamper": lambda text: text.replace(b"/alice", b"/mallory")},
        Reason.BAD_SIGNATURE,
    ),
    "the request changed": (
        {"tamper": lambda text: text.replace(b"#Request=", b"#Request=0")},
        Reason.BAD_SIGNATURE,
    ),
    "the expiry changed": (
        {"tamper": lambda text: text.replace(b"#Timestamp=18000000", b"#Timestamp=18000001")},
        Reason.BAD_SIGNATURE,
    ),
    "the key changed": (
        {"tamper": lambda text: text.replace(ALICES_KEY.line.encode(), new_key().line.encode())},
        Reason.BAD_SIGNATURE,
    ),
    "a header added": ({"tamper": lambda text: b"#Extra=1\n" + text}, Reason.BAD_SIGNATURE),
    "a header dropped": (
        {
            "tamper": lambda text: b"".join(
                line + b"\n" for line in text.split(b"\n")[:-1] if not line.startswith(b"#Caller")
            )
        },
        Reason.BAD_SIGNATURE,
    ),
    "headers exchanged": (
        {
            "tamper": lambda text: b"\n".join(
                [*reversed(text.split(b"\n")[:2]), *text.split(b"\n")[2:]]
            )
        },
        Reason.BAD_SIGNATURE,
    ),
    "an empty signature": (
        {"tamper": lambda text: text.split(b"AAAAC3")[0].rsplit(b"\n", 1)[0] + b"\n\n"},
        Reason.MALFORMED_BLOCK,
    ),
    "carriage returns": (
        {"tamper": lambda text: text.replace(b"\n", b"\r\n")},
        Reason.MALFORMED_BLOCK,
    ),
    "a second timestamp": (
        {"extra_lines": [f"#Timestamp={int(NOW) + 30}"]},
        Reason.MALFORMED_BLOCK,
    ),
    "a second instance": (
        {"extra_lines": ["#Instance=i-0123456789abcdef0"]},
        Reason.MALFORMED_BLOCK,
    ),
    "no timestamp": ({"expires": None}, Reason.MALFORMED_BLOCK),
    "no instance": ({"instance": None}, Reason.MALFORMED_BLOCK),
    "a timestamp in hexadecimal": ({"expires": "0x7fffffff"}, Reason.MALFORMED_BLOCK),
    "a terminal's escapes in the caller": ({"caller": "\x1b[2J"}, Reason.MALFORMED_BLOCK),
    "pushed for another instance": ({"instance": "i-0fedcba987654321f"}, Reason.OTHER_INSTANCE),
    "expired": ({"expires": int(NOW)}, Reason.EXPIRED),
    "an hour of life": ({"expires": int(NOW) + 3600}, Reason.EXPIRES_TOO_LATE),
    "a key with options before it": (
        {"key_line": 'permitopen="*:*" ' + ALICES_KEY.line},
        Reason.KEY_NOT_ALLOWED,
    ),
    "a certificate authority": (
        {"key_line": "cert-authority " + ALICES_KEY.line},
        Reason.KEY_NOT_ALLOWED,
    ),
    "a key type that its text denies": (
        {"key_line": "ssh-rsa " + ALICES_KEY.line.split()[1]},
        Reason.KEY_NOT_ALLOWED,
    ),
    "a key of an unknown type": (
        {"key_line": "ssh-dss " + ALICES_KEY.line.split()[1]},
        Reason.KEY_NOT_ALLOWED,
    ),
    "no key": ({"key_line": "ssh-ed25519"}, Reason.KEY_NOT_ALLOWED),
}


@pytest.mark.parametrize("name", BLOCK_ATTACKS)
def test_attacks_on_a_block_cost_it_and_no_other(rig: Rig, name: str) -> None:
    changes, reason = BLOCK_ATTACKS[name]
    for attribute, value in changes.items():
        setattr(rig.sim.keys["alice"][0], attribute, value)
    decision = only(rig.ask())
    assert decision.reason is reason
    assert decision.caller is None
    other = new_key()
    rig.sim.push("alice", other)
    assert rig.ask().lines == (other.line,)


def test_a_block_replayed_on_another_instance_is_refused(rig: Rig, tmp_path: Path) -> None:
    directory = tmp_path / "other"
    directory.mkdir()
    with make_rig(directory, instance_id="i-0fedcba987654321f") as other:
        document = rig.sim.get(META + "managed-ssh-keys/active-keys/alice/")[1]
        other.sim.documents[META + "managed-ssh-keys/active-keys/alice/"] = document
        assert other.refusals() == [Reason.OTHER_INSTANCE]


def test_metadata_of_another_instance_is_not_believed(rig: Rig, tmp_path: Path) -> None:
    rig.sim.sysfs(tmp_path, "nitro", "i-0fedcba987654321f")
    assert rig.refusals() == [Reason.NOT_THIS_INSTANCE]


def test_a_machine_that_is_not_of_ec2_grants_nothing(rig: Rig, tmp_path: Path) -> None:
    rig.rules = replace(rig.rules, sysfs_root=tmp_path / "no-sys")
    assert rig.refusals() == [Reason.NOT_EC2]
    assert not rig.sim.requests


def test_a_xen_instance_believes_metadata_about_its_id(rig: Rig, tmp_path: Path) -> None:
    rig.rules = replace(rig.rules, sysfs_root=rig.sim.sysfs(tmp_path / "xen", "xen"))
    assert rig.ask().lines


@pytest.mark.parametrize(
    ("region", "zone", "domain"),
    [
        ("us-west-2", "us-west-2-lax-1a", "amazonaws.com"),
        ("us-east-1", "us-east-1-wl1-bos-wlz-1", "amazonaws.com"),
        ("us-gov-west-1", "us-gov-west-1a", "amazonaws.com"),
        ("cn-north-1", "cn-north-1a", "amazonaws.com.cn"),
        ("eusc-de-east-1", "eusc-de-east-1a", "amazonaws.eu"),
        ("us-iso-east-1", "us-iso-east-1a", "c2s.ic.gov"),
        ("us-isob-east-1", "us-isob-east-1a", "sc2s.sgov.gov"),
        ("eu-isoe-west-1", "eu-isoe-west-1a", "cloud.adc-e.uk"),
        ("us-isof-south-1", "us-isof-south-1a", "csp.hci.ic.gov"),
    ],
)
@pytest.mark.parametrize("with_region", [True, False])
def test_every_partition_and_kind_of_zone_works(
    tmp_path: Path, region: str, zone: str, domain: str, *, with_region: bool
) -> None:
    with make_rig(tmp_path, region=region, availability_zone=zone, domain=domain) as rig:
        if not with_region:
            rig.sim.region = None
        assert rig.ask().lines == (ALICES_KEY.line,)


@pytest.fixture
def rig_in_china(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Metadata says China, and a stand-in's authority in the system's store signs for it."""
    with make_rig(tmp_path, region="cn-north-1", domain="amazonaws.com.cn") as rig:
        store = Path(rig.rules.trust.anchors)
        monkeypatch.setattr(signers, "load_anchors", partial(load_anchors, stores=[store]))
        yield rig


def test_metadata_does_not_choose_the_trust_store(rig_in_china: Rig) -> None:
    """Of the many authorities in a system's store keys do leak: one of them would be enough."""
    rig_in_china.rules = replace(rig_in_china.rules, trust=TrustRules(anchors="auto"))
    decision = only(rig_in_china.ask())
    assert decision.reason is Reason.UNTRUSTED_CHAIN
    assert "if this instance is in cn-north-1 (aws-cn)" in decision.detail


def test_the_line_that_a_refusal_names_is_what_a_partition_of_its_own_authorities_needs(
    rig_in_china: Rig, tmp_path: Path
) -> None:
    rig_in_china.rules = replace(rig_in_china.rules, trust=TrustRules(anchors="auto"))
    detail = only(rig_in_china.ask()).detail
    line = re.search("write (trust.*) into (/etc/eic-agent)/(config.d/[a-z]+.toml)", detail)
    assert line is not None
    (tmp_path / "config.d").mkdir()
    (tmp_path / line[3]).write_text(line[1])
    trust = config.load(tmp_path / "config.toml").config.trust
    rig_in_china.rules = replace(rig_in_china.rules, trust=trust)
    assert rig_in_china.ask().lines == (ALICES_KEY.line,)


def test_roots_that_amazons_cross_signed_need_no_configuration(tmp_path: Path) -> None:
    """The European Sovereign Cloud's: served with the chain, they have a staple like the rest."""
    with make_rig(tmp_path, region="eusc-de-east-1", domain="amazonaws.eu") as rig:
        pki = rig.sim.pki
        own_root = pki.authority("Simulated EU Root CA 1")
        pki.intermediate.issuer = own_root
        crossed = pki.cross_sign(own_root, pki.root)
        rig.sim.chain = [pki.leaf, pki.intermediate, crossed]
        rig.sim.staples["crossed"] = type(rig.sim.staples["leaf"])(crossed)
        assert rig.ask().lines == (ALICES_KEY.line,)
        rig.sim.staples["crossed"].status = ocsp.OCSPCertStatus.REVOKED
        assert rig.refusals() == [Reason.REVOKED]


def test_staples_named_by_sha256_work(rig: Rig) -> None:
    rig.sim.staple_names = "sha256"
    assert rig.ask().lines


def test_a_delegated_responder_works(rig: Rig) -> None:
    rig.sim.staples["leaf"].responder = rig.sim.pki.responder(rig.sim.pki.intermediate)
    assert rig.ask().lines


def test_an_intermediate_with_an_elliptic_curve_key_works(rig: Rig) -> None:
    rig.sim.pki.intermediate.key = ec.generate_private_key(ec.SECP256R1())
    assert rig.ask().lines


def test_a_chain_that_was_cross_signed_twice_works_in_any_order(rig: Rig) -> None:
    pki: SignerPKI = rig.sim.pki
    rig.sim.chain = [pki.leaf, pki.cross_other_root, pki.cross_root, pki.intermediate]
    assert rig.ask().lines


def test_an_unknown_critical_extension_of_the_leaf_is_not_ignored(rig: Rig) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    rig.sim.pki.leaf.extra.append((unknown, True))
    assert rig.refusals() == [Reason.UNTRUSTED_CHAIN]


def test_a_flood_of_broken_blocks_hides_no_good_one_and_fills_no_journal(rig: Rig) -> None:
    path = META + "managed-ssh-keys/active-keys/alice/"
    good = rig.sim.get(path)[1]
    rig.sim.documents[path] = b"x\n\n" * 20_000 + good
    answer = rig.ask()
    assert answer.lines == (ALICES_KEY.line,)
    assert len(answer.decisions) == 12
    assert "19990 more" in answer.decisions[-1].detail


@pytest.mark.parametrize(
    ("expires", "instance", "reason"),
    [
        (1, "i-0123456789abcdef0", Reason.EXPIRED),
        (int(NOW) + 60, "i-0fedcba987654321f", Reason.OTHER_INSTANCE),
        (int(NOW) + 60, "i-0123456789abcdef0", Reason.BAD_SIGNATURE),
    ],
)
def test_a_flood_of_forged_blocks_hides_no_good_one_and_fills_no_journal(
    rig: Rig, expires: int, instance: str, reason: Reason
) -> None:
    path = META + "managed-ssh-keys/active-keys/alice/"
    good = rig.sim.get(path)[1]
    forged = f"#Timestamp={expires}\n#Instance={instance}\n{ALICES_KEY.line}\nAAAA\n\n".encode()
    rig.sim.documents[path] = forged * 1000 + good
    answer = rig.ask(key=ALICES_KEY)
    assert answer.lines == (ALICES_KEY.line,)
    assert [d.reason for d in answer.decisions] == [None] + [reason] * 11
    assert answer.decisions[-1].detail == "990 more of this reason"

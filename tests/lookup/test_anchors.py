"""Which certificates a signer's path may end in, and what is said of those that cannot be read."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from eic_agent.errors import ConfigError
from eic_agent.lookup import anchors
from eic_sandbox.simulator import MetadataSimulator
from tests.support import lacking

NOW = 1_800_000_000.0


@pytest.fixture
def sim() -> MetadataSimulator:
    return MetadataSimulator(now=NOW)


def test_the_amazon_roots_that_ship_are_the_five_that_aws_publishes() -> None:
    loaded = anchors.load_anchors("amazon")
    names = [c.subject.rfc4514_string() for c in loaded.certificates]
    assert len(names) == 5
    assert sum("Amazon Root CA" in name for name in names) == 4
    assert any("Starfield Services Root" in name for name in names)


def test_damaged_amazon_roots_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "AMAZON_ROOTS", {"00" * 32: "another"})
    with pytest.raises(ConfigError, match="damaged"):
        anchors.load_amazon_roots()


def test_only_who_configures_it_trusts_other_roots_than_amazons(
    tmp_path: Path, sim: MetadataSimulator
) -> None:
    store = tmp_path / "ca.crt"
    store.write_bytes(sim.anchors_pem)
    stores = [tmp_path / "none", store]
    for rule in ("auto", "amazon"):
        assert anchors.load_anchors(rule, stores) == anchors.load_amazon_roots()
        assert anchors.anchor_file(rule, stores) is None
    loaded = anchors.load_anchors("system", stores)
    assert loaded.certificates == (sim.pki.root.certificate,)
    assert anchors.load_anchors(str(store), []) == loaded


def test_a_certificate_in_the_store_that_cannot_be_read_is_skipped_and_reported(
    tmp_path: Path, sim: MetadataSimulator
) -> None:
    store = tmp_path / "ca.crt"
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    store.write_bytes(broken + b"# a comment\n" + sim.anchors_pem)
    loaded = anchors.load_anchors(str(store))
    assert loaded.certificates == (sim.pki.root.certificate,)
    assert "certificate 1 skipped" in loaded.skipped[0]


def test_a_certificate_with_the_same_extension_twice_is_skipped(
    tmp_path: Path, sim: MetadataSimulator
) -> None:
    sim.pki.other_root.extra = [(x509.NameConstraints([x509.DNSName("a.example")], None), False)]
    constraints, key_identifier = b"\x55\x1d\x1e", b"\x55\x1d\x0e"
    twice = sim.pki.other_root.der.replace(constraints, key_identifier)
    pem = x509.load_der_x509_certificate(twice).public_bytes(Encoding.PEM)
    store = tmp_path / "ca.crt"
    store.write_bytes(pem + sim.anchors_pem)
    assert len(anchors.load_anchors(str(store)).skipped) == 1


def test_the_machines_own_store_is_read() -> None:
    try:
        loaded = anchors.load_anchors("system")
    except ConfigError:
        lacking("a system store of certificates", "apt-get install ca-certificates")
    assert len(loaded.certificates) > 50
    assert anchors.load_anchors("system").store


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_anchors_that_are_not_there_say_where_they_were_looked_for(
    tmp_path: Path, content: bytes | None
) -> None:
    store = tmp_path / "ca.crt"
    if content is not None:
        store.write_bytes(content)
    with pytest.raises(ConfigError, match=str(store)):
        anchors.load_anchors(str(store))
    if content is None:
        with pytest.raises(ConfigError, match="ca-certificates"):
            anchors.load_anchors("system", [store])

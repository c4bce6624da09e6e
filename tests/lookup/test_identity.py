"""The instance's identity: hardware against metadata, zones to regions, domains of partitions."""

from pathlib import Path

import pytest

from eic_agent.errors import Reason, UntrustedMaterial
from eic_agent.lookup.identity import (
    Hardware,
    check_instance_id,
    configured_partition,
    establish,
    read_hardware,
    region_of_zone,
)

ID = "i-0123456789abcdef0"


def sysfs(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return root


def test_nitro_hardware_gives_the_instance_id(tmp_path: Path) -> None:
    root = sysfs(tmp_path, "devices/virtual/dmi/id/board_asset_tag", f"{ID}\n")
    assert read_hardware(root) == Hardware("nitro", ID)


@pytest.mark.parametrize("uuid", ["ec2f58e1-aaaa-bbbb-cccc-000000000000", "EC2F58E1\n"])
def test_xen_hardware_only_says_that_it_is_ec2(tmp_path: Path, uuid: str) -> None:
    assert read_hardware(sysfs(tmp_path, "hypervisor/uuid", uuid)) == Hardware("xen", None)


@pytest.mark.parametrize("tag", ["", "Not Specified", "i-0123", "i-0123456789ABCDEF0", f"x{ID}"])
def test_other_hardware_is_not_ec2(tmp_path: Path, tag: str) -> None:
    root = sysfs(tmp_path, "devices/virtual/dmi/id/board_asset_tag", tag)
    assert read_hardware(root) is None
    with pytest.raises(UntrustedMaterial) as caught:
        check_instance_id(ID, None)
    assert caught.value.reason is Reason.NOT_EC2


def test_unreadable_sysfs_is_not_ec2(tmp_path: Path) -> None:
    assert read_hardware(sysfs(tmp_path, "hypervisor/uuid/below", "")) is None


def test_an_instance_id_that_the_hardware_shares_is_believed() -> None:
    assert check_instance_id(ID, Hardware("nitro", ID)) == ID
    assert check_instance_id(ID, Hardware("xen", None)) == ID


@pytest.mark.parametrize("hardware", [Hardware("nitro", ID), Hardware("xen", None)])
@pytest.mark.parametrize("claimed", ["", "i-0123", f"{ID}\n", f"{ID}/../x", "i-ABCDEF0123"])
def test_what_is_no_instance_id_is_refused(claimed: str, hardware: Hardware) -> None:
    with pytest.raises(UntrustedMaterial) as caught:
        check_instance_id(claimed, hardware)
    assert caught.value.reason is Reason.NOT_THIS_INSTANCE


def test_another_instance_id_than_the_hardwares_is_refused_and_both_are_named() -> None:
    with pytest.raises(UntrustedMaterial, match=f"i-0fedcba987654321f.*{ID}") as caught:
        check_instance_id("i-0fedcba987654321f", Hardware("nitro", ID))
    assert caught.value.reason is Reason.NOT_THIS_INSTANCE


@pytest.mark.parametrize(
    ("zone", "region"),
    [
        ("us-east-1a", "us-east-1"),
        ("us-gov-west-1a", "us-gov-west-1"),
        ("us-west-2-lax-1a", "us-west-2"),
        ("us-east-1-wl1-bos-wlz-1", "us-east-1"),
        ("eusc-de-east-1b", "eusc-de-east-1"),
        ("cn-northwest-1c", "cn-northwest-1"),
    ],
)
def test_zones_of_every_kind_give_their_region(zone: str, region: str) -> None:
    assert region_of_zone(zone) == region


@pytest.mark.parametrize("zone", ["", "us-east-1", "us-east-", "1a", "us-east-1a/..", "us-east-1é"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(UntrustedMaterial) as caught:
        region_of_zone(zone)
    assert caught.value.reason is Reason.UNKNOWN_DOMAIN


@pytest.mark.parametrize(
    ("region", "domain", "partition"),
    [
        ("us-east-1", "amazonaws.com", "aws"),
        ("mx-central-1", "amazonaws.com", "aws"),
        ("us-gov-west-1", "amazonaws.com", "aws-us-gov"),
        ("cn-north-1", "amazonaws.com.cn", "aws-cn"),
        ("eusc-de-east-1", "amazonaws.eu", "aws-eusc"),
        ("us-iso-east-1", "c2s.ic.gov", "aws-iso"),
        ("us-isob-east-1", "sc2s.sgov.gov", "aws-iso-b"),
        ("eu-isoe-west-1", "cloud.adc-e.uk", "aws-iso-e"),
        ("us-isof-south-1", "csp.hci.ic.gov", "aws-iso-f"),
    ],
)
def test_each_partition_has_its_domain(region: str, domain: str, partition: str) -> None:
    identity = establish(ID, region, domain)
    assert identity.partition.name == partition
    assert identity.domain == domain
    assert identity.signer_name == f"managed-ssh-signer.{region}.{domain}"


@pytest.mark.parametrize(
    ("region", "domain"),
    [
        ("us-east-1", "amazonaws.com.evil.example"),
        ("us-east-1", "amazonaws.com.cn"),
        ("cn-north-1", "amazonaws.com"),
        ("us-east-1", ""),
        ("us-east-1", "AMAZONAWS.COM"),
        ("xx-east-1", "amazonaws.com"),
        ("", "amazonaws.com"),
        ("us-east-1.evil", "amazonaws.com"),
        ("us-éast-1", "amazonaws.com"),
        ("us-ea_st-1", "amazonaws.com"),
        ("us-EAST-1", "amazonaws.com"),
        ("us-" + "e" * 60 + "-1", "amazonaws.com"),
    ],
)
def test_a_domain_that_is_not_the_regions_is_refused(region: str, domain: str) -> None:
    with pytest.raises(UntrustedMaterial) as caught:
        establish(ID, region, domain)
    assert caught.value.reason is Reason.UNKNOWN_DOMAIN


def test_a_region_that_the_administrator_names_needs_no_pattern() -> None:
    added = (configured_partition("new-north-1=amazonaws.com"),)
    identity = establish(ID, "new-north-1", "amazonaws.com", added)
    assert identity.signer_name == "managed-ssh-signer.new-north-1.amazonaws.com"
    for region, domain in (("new-north-10", "amazonaws.com"), ("new-north-1", "amazonaws.com.cn")):
        with pytest.raises(UntrustedMaterial):
            establish(ID, region, domain, added)


def test_what_the_administrator_says_of_a_known_region_goes_before_what_we_know() -> None:
    moved = (configured_partition("us-east-1=amazonaws.example"),)
    assert establish(ID, "us-east-1", "amazonaws.example", moved).domain == "amazonaws.example"
    with pytest.raises(UntrustedMaterial):
        establish(ID, "us-east-1", "amazonaws.com", moved)


def test_an_unknown_region_is_refused_with_the_line_that_adds_it() -> None:
    with pytest.raises(UntrustedMaterial) as caught:
        establish(ID, "new-north-1", "amazonaws.com")
    assert 'identity.regions = ["new-north-1=amazonaws.com"]' in caught.value.detail
    with pytest.raises(UntrustedMaterial) as caught:
        establish(ID, "new-north-1", "amazonaws.attacker.example")
    assert "identity.regions" not in caught.value.detail


@pytest.mark.parametrize(
    "entry",
    [
        "new-north-1",
        "new-north-1=",
        "=amazonaws.com",
        "new-north-1=com",
        "new-*-1=amazonaws.com",
        "new.north-1=amazonaws.com",
        "-new-1=amazonaws.com",
        "new-north-1=amazonaws.com.",
        "new-north-1=Amazonaws.com",
        "new-north-1 = amazonaws.com",
        "n" * 64 + "=amazonaws.com",
        "new-north-1=" + "a." * 110 + "com",
    ],
)
def test_what_is_no_region_with_a_domain_is_not_configured(entry: str) -> None:
    with pytest.raises(ValueError, match="not a region"):
        configured_partition(entry)

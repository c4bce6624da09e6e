"""Who this instance is: what metadata says, what the hardware says, and the signer it expects."""

import re
from dataclasses import dataclass
from pathlib import Path

from eic_agent.errors import Reason, UntrustedMaterial

INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,32}", re.ASCII)

# A label of the signer's name, so no more than a label of DNS can be (RFC 1035 2.3.4).
_REGION = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
_LONGEST_NAME = 253

# Longest match last part first: "us-gov-west-1a", "us-west-2-lax-1a" and "us-east-1-wl1-bos-wlz-1"
# all begin with their region, which ends at the first number.
_REGION_OF_ZONE = re.compile(r"([a-z]+(?:-[a-z]+)+-[0-9]+)(?:[a-z]|-[a-z0-9-]+)", re.ASCII)

_DMI_ASSET_TAG = Path("devices/virtual/dmi/id/board_asset_tag")
_XEN_UUID = Path("hypervisor/uuid")


@dataclass(frozen=True, slots=True)
class Partition:
    """A group of regions under one DNS suffix, as the AWS SDKs' partition data lists them."""

    name: str
    domain: str
    regions: re.Pattern[str]


def _partition(name: str, domain: str, regions: str) -> Partition:
    return Partition(name, domain, re.compile(regions, re.ASCII))


AMAZON_DOMAIN = "amazonaws.com"

# A certificate for somebody else's domain is easy to get, so a domain outside this list is refused.
PARTITIONS = (
    _partition("aws", AMAZON_DOMAIN, r"(us|eu|ap|sa|ca|me|af|il|mx)-\w+-\d+"),
    _partition("aws-cn", "amazonaws.com.cn", r"cn-\w+-\d+"),
    _partition("aws-eusc", "amazonaws.eu", r"eusc-(de)-\w+-\d+"),
    _partition("aws-iso", "c2s.ic.gov", r"us-iso-\w+-\d+"),
    _partition("aws-iso-b", "sc2s.sgov.gov", r"us-isob-\w+-\d+"),
    _partition("aws-iso-e", "cloud.adc-e.uk", r"eu-isoe-\w+-\d+"),
    _partition("aws-iso-f", "csp.hci.ic.gov", r"us-isof-\w+-\d+"),
    _partition("aws-us-gov", AMAZON_DOMAIN, r"us-gov-\w+-\d+"),
)

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_CONFIGURED_REGION = re.compile(
    rf"(?P<region>{_LABEL})=(?P<domain>({_LABEL}\.)+{_LABEL})", re.ASCII
)


def configured_partition(entry: str) -> Partition:
    """Read an entry of `[identity] regions`, "new-north-1=amazonaws.com": one region, exactly.

    No pattern: every region that one admits is a signer more that metadata may choose. Raises
    ValueError.
    """
    match = _CONFIGURED_REGION.fullmatch(entry)
    if match is None or len(_signer_name(match["region"], match["domain"])) > _LONGEST_NAME:
        raise ValueError(f"{entry!r} is not a region, = and its domain")
    return _partition("identity.regions", match["domain"], re.escape(match["region"]))


def _signer_name(region: str, domain: str) -> str:
    return f"managed-ssh-signer.{region}.{domain}"


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """An instance id with the region, and the domain that belongs to this region."""

    instance_id: str
    region: str
    partition: Partition

    @property
    def domain(self) -> str:
        """DNS suffix of the partition."""
        return self.partition.domain

    @property
    def signer_name(self) -> str:
        """DNS name that the certificate of this region's key signer must hold."""
        return _signer_name(self.region, self.domain)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the hypervisor shows: on Nitro the instance's id, on Xen only that it is EC2's."""

    hypervisor: str
    instance_id: str | None


def read_hardware(sysfs_root: Path) -> Hardware | None:
    """Read the hypervisor's word from sysfs; None where it is not EC2's."""
    asset_tag = _read(sysfs_root / _DMI_ASSET_TAG)
    if INSTANCE_ID.fullmatch(asset_tag):
        return Hardware("nitro", asset_tag)
    if _read(sysfs_root / _XEN_UUID).lower().startswith("ec2"):
        return Hardware("xen", None)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def check_instance_id(claimed: str, hardware: Hardware | None) -> str:
    """Return the instance id that metadata claims, once the hardware agrees (step 3).

    Raises UntrustedMaterial with NOT_EC2 or NOT_THIS_INSTANCE.
    """
    if hardware is None:
        raise UntrustedMaterial(
            Reason.NOT_EC2,
            "neither DMI's board_asset_tag nor the Xen hypervisor's uuid is an EC2 instance's",
        )
    if not INSTANCE_ID.fullmatch(claimed):
        raise UntrustedMaterial(
            Reason.NOT_THIS_INSTANCE, f"metadata gives {claimed!r}, which is no instance id"
        )
    if hardware.instance_id not in (None, claimed):
        raise UntrustedMaterial(
            Reason.NOT_THIS_INSTANCE,
            f"metadata says {claimed}, the hardware says {hardware.instance_id}",
        )
    return claimed


def region_of_zone(zone: str) -> str:
    """Region of an availability, local or Wavelength zone.

    For instances whose metadata has no placement/region. Raises UntrustedMaterial(UNKNOWN_DOMAIN).
    """
    match = _REGION_OF_ZONE.fullmatch(zone)
    if match is None:
        raise UntrustedMaterial(Reason.UNKNOWN_DOMAIN, f"{zone!r} is no name of a zone")
    return match[1]


def establish(
    instance_id: str, region: str, domain: str, configured: tuple[Partition, ...] = ()
) -> InstanceIdentity:
    """Identity of an instance whose id is checked, once its domain fits its region (step 5).

    What the administrator has `configured` goes before what we know. Raises
    UntrustedMaterial(UNKNOWN_DOMAIN).
    """
    if not _REGION.fullmatch(region):
        raise UntrustedMaterial(Reason.UNKNOWN_DOMAIN, f"{region!r} is no name of a region")
    for partition in (*configured, *PARTITIONS):
        if partition.regions.fullmatch(region):
            if partition.domain != domain:
                raise UntrustedMaterial(
                    Reason.UNKNOWN_DOMAIN,
                    f"metadata says {domain!r}, partition {partition.name} of region {region} "
                    f"has {partition.domain}",
                )
            return InstanceIdentity(instance_id, region, partition)
    problem = f"{region!r} is a region of no known partition"
    if domain in {partition.domain for partition in PARTITIONS}:
        # Only for a domain of AWS's: advice must not repeat what a stranger would like to read.
        problem += (
            f"; if AWS has such a region, write "
            f'identity.regions = ["{region}={domain}"] into /etc/eic-agent/config.d/region.toml'
        )
    raise UntrustedMaterial(Reason.UNKNOWN_DOMAIN, problem)

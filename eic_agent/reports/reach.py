"""Whether the service may reach the metadata service where the configuration says it is.

The unit's IPAddressDeny= and IPAddressAllow= (systemd.resource-control(5)) let through the two
addresses that metadata has on EC2; packets to any other are dropped unless a drop-in adds it.
"""

import ipaddress
import subprocess
from collections.abc import Mapping
from pathlib import Path

from eic_agent.metadata.endpoints import Address, endpoint_addresses, url_of

UNIT = "eic-agent.service"
_SYSTEMCTL = Path("/usr/bin/systemctl")
_PROPERTIES = "LoadState,IPAddressAllow,IPAddressDeny"
_ASK_S = 5.0


def unit_properties(systemctl: Path = _SYSTEMCTL) -> Mapping[str, str]:
    """Ask systemd what the unit lets through, drop-ins included; empty where nobody knows.

    root is answered without D-Bus, which a small system may lack.
    """
    try:
        done = subprocess.run(  # noqa: S603  # arguments never through a shell
            [systemctl, "show", "-p", _PROPERTIES, UNIT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = (line.partition("=") for line in done.stdout.splitlines())
    return {name: value for name, _, value in lines}


def remarks(endpoint: str, unit: Mapping[str, str]) -> tuple[str, ...]:
    """Give a line with what to do where the unit lets none of the endpoint's addresses through."""
    if unit.get("LoadState") != "loaded":
        return ()
    allowed = _networks(unit.get("IPAddressAllow", ""))
    denied = _networks(unit.get("IPAddressDeny", ""))
    addresses = endpoint_addresses(endpoint)
    if any(_among(address, allowed) or not _among(address, denied) for address in addresses):
        return ()
    hosts = " ".join(host for host, _ in addresses)
    remark = (
        f"imds.endpoint is {url_of(addresses[0])}, which {UNIT} may not reach: run "
        f"`systemctl edit {UNIT}`, write the lines `[Service]` and `IPAddressAllow={hosts}`, then "
        f"`systemctl restart {UNIT}`"
    )
    return (remark,)


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(listed: str) -> list[_Network]:
    return [ipaddress.ip_network(word, strict=False) for word in listed.split()]


def _among(address: Address, networks: list[_Network]) -> bool:
    return any(ipaddress.ip_address(address[0]) in network for network in networks)

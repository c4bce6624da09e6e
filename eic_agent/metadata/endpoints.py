"""The addresses at which the metadata service answers."""

import contextlib
import ipaddress
import re

from eic_agent.errors import ConfigError

Address = tuple[str, int]
"""An IP address and a TCP port."""

IPV4: Address = ("169.254.169.254", 80)
IPV6: Address = ("fd00:ec2::254", 80)

_URL = re.compile(
    r"http://(?P<host>localhost|[0-9.]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?/?",
    re.ASCII | re.IGNORECASE,
)


def endpoint_addresses(endpoint: str) -> tuple[Address, ...]:
    """Give IP address and port, in the order to try, of `auto`, `ipv4`, `ipv6` or a URL.

    Raises ConfigError for anything else, and for a host name: how long it takes to look one up
    cannot be bounded. `localhost` is never looked up (RFC 6761 6.3).
    """
    named = {"auto": (IPV4, IPV6), "ipv4": (IPV4,), "ipv6": (IPV6,)}
    if endpoint in named:
        return named[endpoint]
    url = _URL.fullmatch(endpoint)
    if url is not None and (port := int(url["port"] or "80")) in range(1, 65536):
        hosts = ("127.0.0.1", "::1") if url["host"] == "localhost" else (url["host"].strip("[]"),)
        with contextlib.suppress(ValueError):
            return tuple((str(ipaddress.ip_address(host)), port) for host in hosts)
    raise ConfigError(
        f'the endpoint {endpoint!r} is neither "auto" nor "ipv4" nor "ipv6" nor a URL of an IP '
        f'address such as "{url_of(IPV4)}"'
    )


def url_of(address: Address) -> str:
    """Give the base URL of an address."""
    host, port = address
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}" if port == 80 else f"http://{shown}:{port}"

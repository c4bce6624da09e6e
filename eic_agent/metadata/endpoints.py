"""The addresses at which the metadata service answers."""

import contextlib
import ipaddress
import re

from eic_agent.errors import ConfigError

IPV4_ENDPOINT = "http://169.254.169.254"
IPV6_ENDPOINT = "http://[fd00:ec2::254]"

_URL = re.compile(
    r"http://(?P<host>localhost|[0-9.]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?/?",
    re.ASCII | re.IGNORECASE,
)


def endpoint_urls(endpoint: str) -> tuple[str, ...]:
    """Give the base URLs, in the order to try, of `auto`, `ipv4`, `ipv6` or a URL.

    Raises ConfigError for anything else, and for a host name: how long it takes to look one up
    cannot be bounded. `localhost` is never looked up (RFC 6761 6.3).
    """
    named = {
        "auto": (IPV4_ENDPOINT, IPV6_ENDPOINT),
        "ipv4": (IPV4_ENDPOINT,),
        "ipv6": (IPV6_ENDPOINT,),
    }
    if endpoint in named:
        return named[endpoint]
    url = _URL.fullmatch(endpoint)
    if url is not None and int(url["port"] or "80") in range(1, 65536):
        port = f":{url['port']}" if url["port"] else ""
        hosts = ("127.0.0.1", "[::1]") if url["host"] == "localhost" else (url["host"],)
        with contextlib.suppress(ValueError):
            for host in hosts:
                ipaddress.ip_address(host.strip("[]"))
            return tuple(f"http://{host}{port}" for host in hosts)
    raise ConfigError(
        f'the endpoint {endpoint!r} is neither "auto" nor "ipv4" nor "ipv6" nor a URL of an IP '
        f'address such as "{IPV4_ENDPOINT}"'
    )

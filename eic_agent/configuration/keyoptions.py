"""Options that may stand before a key in authorized_keys, as sshd(8) has them.

One option that sshd cannot read makes it drop the whole line, and so every key; this reads them
as sshd does, so that a slip of the pen is found when the configuration is loaded.
"""

import difflib
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence

# sshd ignores the case of names.
_FLAGS = frozenset(
    (
        "restrict",
        "agent-forwarding",
        "no-agent-forwarding",
        "port-forwarding",
        "no-port-forwarding",
        "pty",
        "no-pty",
        "user-rc",
        "no-user-rc",
        "x11-forwarding",
        "no-x11-forwarding",
        "no-touch-required",
        "verify-required",
    )
)
_REFUSED = {
    "cert-authority": "it would make an authority of every key that is pushed",
    "principals": "it speaks of certificates, and what is pushed is a key",
    "expiry-time": "every pushed key has its own expiry; see keys.max_lifetime_s",
}
_AT_MOST_ONCE = ("command", "from")

# A quote inside is written \" and a backslash before anything else is a backslash.
_QUOTED = re.compile(r'"((?:\\"|[^"\\]|\\(?!"))*)"')
_ENVIRONMENT = re.compile(r"[A-Za-z0-9_]+=.*", re.ASCII)
_TUNNEL = re.compile(r"any|[0-9]{1,5}", re.ASCII)
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:/\s]+):(\*|[0-9]{1,5})", re.ASCII)
_HOST_PATTERN = re.compile(r"!?[A-Za-z0-9.:*?_-]+", re.ASCII)


def _is_host_and_port(value: str) -> bool:
    match = _HOST_AND_PORT.fullmatch(value)
    return match is not None and (match[2] == "*" or 1 <= int(match[2]) <= 65535)


def _is_listener(value: str) -> bool:
    return _is_host_and_port(value if ":" in value else f"*:{value}")


def _is_source_list(value: str) -> bool:
    return all(_is_source(entry) for entry in value.split(","))


def _is_source(entry: str) -> bool:
    """Whether sshd takes it as a pattern, or as a network without bits set behind its prefix."""
    if "/" not in entry:
        return _HOST_PATTERN.fullmatch(entry) is not None
    try:
        ipaddress.ip_network(entry.removeprefix("!"))
    except ValueError:
        return False
    return entry.rpartition("/")[2].isdigit()


_VALUES: dict[str, tuple[Callable[[str], object], str]] = {
    "command": (bool, 'command="..."'),
    "environment": (_ENVIRONMENT.fullmatch, 'environment="NAME=value"'),
    "from": (
        _is_source_list,
        'from="pattern,..." of host names, addresses and networks without bits behind the prefix',
    ),
    "permitlisten": (_is_listener, 'permitlisten="[host:]port"'),
    "permitopen": (_is_host_and_port, 'permitopen="host:port"'),
    "tunnel": (_TUNNEL.fullmatch, 'tunnel="n"'),
}

_NAMES = sorted(_FLAGS | _VALUES.keys())


def problems(options: Sequence[str]) -> list[str]:
    """Say what sshd would not take, or would take for more than an option; nothing if all is well.

    Each element must be one option.
    """
    found = [problem for option in options if (problem := _problem(option))]
    names = Counter(option.partition("=")[0].lower() for option in options)
    return found + [
        f"has {name} {names[name]} times; accepted is one"
        for name in _AT_MOST_ONCE
        if names[name] > 1
    ]


def _problem(option: str) -> str | None:
    shown = f"has {option!a}"
    if not re.fullmatch(r"[ -~]*", option):
        return f"{shown}; accepted are options in printable ASCII"
    name, equals, value = option.partition("=")
    name = name.lower()
    if name in _REFUSED:
        return f"{shown}, which is refused: {_REFUSED[name]}"
    if name in _FLAGS and not equals:
        return None
    if name in _VALUES:
        is_valid, accepted = _VALUES[name]
        quoted = _QUOTED.fullmatch(value)
        if quoted and is_valid(quoted[1].replace('\\"', '"')):
            return None
        return f'{shown}; accepted is {accepted}; a double quote within is written \\"'
    near = difflib.get_close_matches(name, _NAMES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"accepted are {', '.join(_NAMES)}"
    return f"{shown}, which is not one option of sshd(8); {hint}"

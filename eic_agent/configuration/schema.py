"""Every key of the configuration: what it accepts, and how values are written in TOML."""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eic_agent import client
from eic_agent.configuration import keyoptions
from eic_agent.errors import ConfigError
from eic_agent.journal.writer import LEVELS
from eic_agent.lookup.identity import configured_partition
from eic_agent.lookup.keyblock import KEY_TYPES
from eic_agent.lookup.policy import CallerRule
from eic_agent.metadata.endpoints import endpoint_addresses

_USER_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@$\\-]*")


@dataclass(frozen=True, slots=True)
class Invalid:
    """What is wrong with a value: phrases that continue the name of its key."""

    problems: tuple[str, ...]


def _not_accepted(value: object, accepted: str) -> Invalid:
    return Invalid((f"is {shown(value)}; accepted is {accepted}",))


# Takes a value as TOML has it; gives it as Config has it, or Invalid.
Reader = Callable[[object], Any]


def _number(low: float, high: float, meaning: str) -> Reader:
    def read(value: object) -> float | Invalid:
        if not isinstance(value, bool) and isinstance(value, int | float) and low <= value <= high:
            return float(value)
        return _not_accepted(value, f"a number from {low:g} to {high:g} ({meaning})")

    return read


def _one_of(*names: str) -> Reader:
    def read(value: object) -> object:
        if value in names:
            return value
        return _not_accepted(value, " or ".join(map(toml, names)))

    return read


def _boolean(value: object) -> object:
    return value if isinstance(value, bool) else _not_accepted(value, "true or false")


def _rsa_bits(value: object) -> object:
    if isinstance(value, int) and 2048 <= value <= 16384:
        return value
    return _not_accepted(
        value,
        "a whole number from 2048 to 16384 (keys of fewer bits are no longer acceptable, "
        "NIST SP 800-131A; longer ones OpenSSH does not take)",
    )


def _endpoint(value: object) -> object:
    if isinstance(value, str):
        with contextlib.suppress(ConfigError):
            endpoint_addresses(value)
            return value
    return _not_accepted(
        value,
        '"auto", "ipv4", "ipv6" or a URL such as "http://169.254.169.254", '
        "of an IP address or localhost and without path",
    )


def _is_region(text: str) -> bool:
    with contextlib.suppress(ValueError):
        configured_partition(text)
        return True
    return False


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and path.isprintable()


def _directory(value: object) -> Path | Invalid:
    if isinstance(value, str) and _is_absolute(value):
        return Path(value)
    return _not_accepted(value, "an absolute path")


def _anchors(value: object) -> object:
    if isinstance(value, str) and (value in ("auto", "amazon", "system") or _is_absolute(value)):
        return value
    return _not_accepted(value, '"auto", "amazon", "system" or the absolute path of a PEM file')


def _strings(is_valid: Callable[[str], object], accepted: str, least: int = 0) -> Reader:
    """Read an array of at least so many strings; `accepted` says what each of them is."""

    def read(value: object) -> tuple[str, ...] | Invalid:
        if not isinstance(value, list) or len(value) < least:
            number = "one or more strings" if least else "strings"
            return _not_accepted(value, f"an array of {number}, each {accepted}")
        problems = tuple(
            f"has {shown(element)}; accepted is {accepted}"
            for element in value
            if not (isinstance(element, str) and is_valid(element))
        )
        return Invalid(problems) if problems else tuple(value)

    return read


def _is_pattern(text: str) -> bool:
    return text.isprintable() and text != "" and text == text.strip()


_PATTERN = "a shell pattern, not empty and without space around it"
_patterns = _strings(_is_pattern, _PATTERN)
_option_strings = _strings(bool, "an option of sshd(8)")


def _options(value: object) -> object:
    options = _option_strings(value)
    if isinstance(options, Invalid):
        return options
    problems = keyoptions.problems(options)
    return Invalid(tuple(problems)) if problems else options


_RULE_KEYS: dict[str, Reader] = {
    "users": _strings(_is_pattern, _PATTERN, least=1),
    "callers": _patterns,
}


def _rules(value: object) -> tuple[CallerRule, ...] | Invalid:
    if not isinstance(value, list) or not all(isinstance(rule, dict) for rule in value):
        return _not_accepted(value, "tables [[policy.rules]], each with users and callers")
    rules: list[CallerRule] = []
    problems: list[str] = []
    for number, table in enumerate(value, 1):
        keys, found = read_table(table, _RULE_KEYS)
        found += [f"{name} is missing" for name in _RULE_KEYS if name not in table]
        problems += [f"number {number}: {problem}" for problem in found]
        if not found:
            rules.append(CallerRule(**keys))
    return Invalid(tuple(problems)) if problems else tuple(rules)


TABLES: dict[str, dict[str, Reader]] = {
    "imds": {
        "endpoint": _endpoint,
        "timeout_s": _number(0.1, 30, "seconds for one request"),
        "deadline_s": _number(0.1, 30, "seconds for one lookup, everything included"),
        "start_s": _number(
            1, client.DEADLINE_S + client.LONGER_S, "seconds for a lookup that waits for a start"
        ),
    },
    "identity": {
        "sysfs_root": _directory,
        "regions": _strings(_is_region, 'a region and its domain, "new-north-1=amazonaws.com"'),
    },
    "trust": {
        "anchors": _anchors,
        "revocation": _one_of("require", "if-stapled"),
        "max_cache_s": _number(0, 3600, "seconds"),
    },
    "keys": {
        "max_lifetime_s": _number(0, 86400, "seconds, 0 for no limit"),
        "clock_skew_s": _number(0, 3600, "seconds"),
        "types": _strings(KEY_TYPES.__contains__, f"one of {', '.join(KEY_TYPES)}", least=1),
        "min_rsa_bits": _rsa_bits,
        "options": _options,
        "export_caller": _boolean,
    },
    "policy": {
        "allow_users": _patterns,
        "deny_users": _patterns,
        "allow_groups": _patterns,
        "deny_groups": _patterns,
        "rules": _rules,
    },
    "agent": {
        "idle_exit_s": _number(0, 86400, "seconds, 0 for never"),
        "clients": _strings(_USER_NAME.fullmatch, "a user name"),
    },
    "log": {"level": _one_of(*LEVELS), "required": _boolean},
}


def read_table(
    content: Mapping[str, object], readers: Mapping[str, Reader]
) -> tuple[dict[str, Any], list[str]]:
    """Read the values of a table that are valid, and say what is wrong with the others."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in content.items():
        if name not in readers:
            problems.append(unknown(name, readers))
            continue
        read = readers[name](value)
        if isinstance(read, Invalid):
            problems += [f"{name} {problem}" for problem in read.problems]
        else:
            values[name] = read
    return values, problems


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, and which one may have been meant."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name} is unknown; " + (
        f"did you mean {near[0]}?" if near else f"accepted are {', '.join(known)}"
    )


def toml(value: object) -> str:
    """Write a value as TOML, in printable ASCII."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        return f'"{_TO_ESCAPE.sub(_escaped, str(value))}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(name)} = {toml(item)}' for name, item in value.items())}}}"
    if isinstance(value, int) and value.bit_length() > 64:
        return hex(value)  # TOML has no such numbers; Python writes very long ones in no other way
    return str(value)


_TO_ESCAPE = re.compile(r'[^ -~]|["\\]')


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in '"\\':
        return f"\\{match[0]}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shown(value: object) -> str:
    """Show a value of any type in a message."""
    text = toml(value)
    return text if len(text) <= 100 else f"{text[:100]}..."

"""IAM as far as EC2 Instance Connect needs it: principals, their keys, and their policies.

Policies are IAM's own JSON documents, so that one in use can be tried here as it is. What is not
understood (an operator, a condition key, NotAction) is an error when the file is read, never
something to pass over: a condition ignored would allow what IAM refuses.
"""

import fnmatch
import hashlib
import ipaddress
import json
import re
from base64 import b32encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

DEFAULT_FILE = Path(__file__).with_name("iam.json")

SEND_SSH_PUBLIC_KEY = "ec2-instance-connect:SendSSHPublicKey"
OPEN_TUNNEL = "ec2-instance-connect:OpenTunnel"

# Condition keys, in lower case as IAM compares them, and the values that a request has for them.
OS_USER = "ec2:osuser"
REMOTE_PORT = "ec2-instance-connect:remoteport"
PRIVATE_IP = "ec2-instance-connect:privateipaddress"
MAX_DURATION = "ec2-instance-connect:maxtunnelduration"
SOURCE_IP = "aws:sourceip"
_KEYS = {OS_USER, REMOTE_PORT, PRIVATE_IP, MAX_DURATION, SOURCE_IP}

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):(?:iam|sts)::(?P<account>[0-9]{12}):"
    r"(?P<kind>user|role|assumed-role|root)(?:/(?P<path>.+))?"
)


class PolicyError(ValueError):
    """The file of principals cannot be used; the text says where and why."""


class AccessDenied(Exception):
    """IAM's answer to a principal that may not do what it asks; the text is IAM's."""


def _like(value: str, pattern: str) -> bool:
    # In IAM only * and ? are wild; fnmatch also knows brackets.
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def _within(value: str, block: str) -> bool:
    return ipaddress.ip_address(value) in ipaddress.ip_network(block, strict=False)


_Compare: TypeAlias = Callable[[str, str], bool]
_POSITIVE: dict[str, _Compare] = {
    "StringEquals": lambda value, wanted: value == wanted,
    "StringEqualsIgnoreCase": lambda value, wanted: value.lower() == wanted.lower(),
    "StringLike": _like,
    "NumericEquals": lambda value, wanted: int(value) == int(wanted),
    "NumericLessThan": lambda value, wanted: int(value) < int(wanted),
    "NumericLessThanEquals": lambda value, wanted: int(value) <= int(wanted),
    "NumericGreaterThan": lambda value, wanted: int(value) > int(wanted),
    "NumericGreaterThanEquals": lambda value, wanted: int(value) >= int(wanted),
    "IpAddress": _within,
}
_NEGATIVE: dict[str, _Compare] = {
    "StringNotEquals": _POSITIVE["StringEquals"],
    "StringNotEqualsIgnoreCase": _POSITIVE["StringEqualsIgnoreCase"],
    "StringNotLike": _like,
    "NumericNotEquals": _POSITIVE["NumericEquals"],
    "NotIpAddress": _within,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key."""

    operator: str
    key: str
    values: tuple[str, ...]

    def holds(self, context: Mapping[str, str]) -> bool:
        """IAM's rules: any value will do, for a negation none may; a key that is absent fails."""
        value = context.get(self.key)
        if self.operator in _NEGATIVE:
            compare = _NEGATIVE[self.operator]
            return value is None or not self._any(compare, value)
        return value is not None and self._any(_POSITIVE[self.operator], value)

    def _any(self, compare: _Compare, value: str) -> bool:
        try:
            return any(compare(value, wanted) for wanted in self.values)
        except ValueError:
            # A number or an address is wanted, and the request's value is neither.
            return False


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a policy."""

    allow: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()

    def covers(self, action: str, resource: str, context: Mapping[str, str]) -> bool:
        """Whether the statement speaks of this request."""
        return (
            any(_like(action.lower(), pattern.lower()) for pattern in self.actions)
            and any(_like(resource, pattern) for pattern in self.resources)
            and all(condition.holds(context) for condition in self.conditions)
        )


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, with the credentials to sign with; the ARN stands as Caller in key blocks."""

    arn: str
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    statements: tuple[Statement, ...] = ()

    @property
    def partition(self) -> str:
        """The partition that the principal belongs to."""
        return self._part("partition")

    @property
    def account(self) -> str:
        """The twelve digits of the account."""
        return self._part("account")

    @property
    def kind(self) -> str:
        """`user`, `role`, `assumed-role` or `root`."""
        return self._part("kind")

    @property
    def path(self) -> str:
        """What follows the kind: a user's name, or role and session."""
        return self._part("path")

    @property
    def unique_id(self) -> str:
        """An id in the form of IAM's, the same for the same ARN; with a role's session behind."""
        if self.kind == "assumed-role":
            role, _, session = self.path.rpartition("/")
            return f"AROA{_letters(role)}:{session}"
        return f"{'AIDA' if self.kind == 'user' else 'AROA'}{_letters(self.path)}"

    def authorize(self, action: str, resource: str, context: Mapping[str, str]) -> None:
        """Raise AccessDenied unless a statement allows this, and none denies it."""
        speaking = [s for s in self.statements if s.covers(action, resource, context)]
        refused = f"User: {self.arn} is not authorized to perform: {action} on resource: {resource}"
        if any(not statement.allow for statement in speaking):
            raise AccessDenied(f"{refused} with an explicit deny in an identity-based policy")
        if not speaking:
            raise AccessDenied(
                f"{refused} because no identity-based policy allows the {action} action"
            )

    def _part(self, name: str) -> str:
        match = _ARN.fullmatch(self.arn)
        if match is None:
            raise PolicyError(f"{self.arn!a} is no ARN of an IAM principal")
        return match[name] or ""


def _letters(text: str) -> str:
    return b32encode(hashlib.sha256(text.encode()).digest()).decode()[:17]


def load(path: Path) -> tuple[Principal, ...]:
    """Read the file of principals; raises PolicyError."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: {error}") from error
    try:
        entries = content["principals"]
        principals = tuple(_principal(entry) for entry in entries)
    except (KeyError, TypeError, PolicyError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else error
        raise PolicyError(f"{path}: {said}") from error
    if len({principal.access_key_id for principal in principals}) != len(principals):
        raise PolicyError(f"{path}: two principals have the same access_key_id")
    if not principals:
        raise PolicyError(f"{path}: there are no principals")
    return principals


def _principal(entry: Mapping[str, object]) -> Principal:
    known = {"arn", "access_key_id", "secret_access_key", "session_token", "policy"}
    if unknown := sorted(set(entry) - known):
        raise PolicyError(f"a principal has {', '.join(sorted(known))}, but not {unknown[0]!a}")
    arn = _text(entry["arn"], "arn")
    if not _ARN.fullmatch(arn):
        raise PolicyError(f"{arn!a} is no ARN of an IAM principal")
    policy = entry["policy"]
    if not isinstance(policy, dict):
        raise PolicyError(f"the policy of {arn} is no JSON object")
    token = entry.get("session_token")
    return Principal(
        arn,
        _text(entry["access_key_id"], "access_key_id"),
        _text(entry["secret_access_key"], "secret_access_key"),
        None if token is None else _text(token, "session_token"),
        tuple(_statement(item, arn) for item in _list(policy["Statement"])),
    )


def _statement(item: object, arn: str) -> Statement:
    if not isinstance(item, dict):
        raise PolicyError(f"a statement of {arn} is no JSON object")
    known = {"Sid", "Effect", "Action", "Resource", "Condition"}
    if unknown := sorted(set(item) - known):
        raise PolicyError(f"the sandbox knows no {unknown[0]!a} in a statement")
    if item["Effect"] not in ("Allow", "Deny"):
        raise PolicyError(f"Effect is {item['Effect']!a}, neither Allow nor Deny")
    conditions = []
    for operator, keys in item.get("Condition", {}).items():
        if operator not in _POSITIVE and operator not in _NEGATIVE:
            raise PolicyError(f"the sandbox knows no condition operator {operator!a}")
        for key, values in keys.items():
            if key.lower() not in _KEYS:
                raise PolicyError(f"the sandbox knows no condition key {key!a}")
            texts = tuple(str(value) for value in _list(values))
            _try_values(operator, texts)
            conditions.append(Condition(operator, key.lower(), texts))
    return Statement(
        item["Effect"] == "Allow",
        tuple(_text(action, "Action") for action in _list(item["Action"])),
        tuple(_text(resource, "Resource") for resource in _list(item["Resource"])),
        tuple(conditions),
    )


def _try_values(operator: str, values: tuple[str, ...]) -> None:
    """Raise PolicyError for a value that the operator could never be asked about."""
    for value in values:
        try:
            if operator.startswith("Numeric"):
                int(value)
            elif operator.endswith("IpAddress"):
                ipaddress.ip_network(value, strict=False)
        except ValueError as error:
            raise PolicyError(f"{operator} cannot compare with {value!a}: {error}") from error


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise PolicyError(f"{name} is {value!a}, not a string")
    return value

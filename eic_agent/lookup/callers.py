"""IAM principals, and the patterns that name them in `policy.rules`.

A pattern has the parts of an ARN, and `*`, `?` and `[...]` stand for something within one part:
they reach across no `:` and no `/`, so a pattern for a role says nothing about sessions, and one
for a session nothing about roles. `*` alone is every caller.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

ANYBODY = "*"

_ASSUMED_ROLE = re.compile(r"arn:([^:]+):sts::([0-9]+):assumed-role/([^/]+)/[^/]+", re.ASCII)
_WILDCARD = re.compile(r"[*?]|\[!?[^]]+\]")
_PARTITION = re.compile(r"aws(-[a-z]+)*", re.ASCII)
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)

# Service, kind of principal, and of how many parts the resource consists: least, most.
_KINDS = (
    ("sts", "assumed-role", 3, 3),
    ("sts", "federated-user", 2, 2),
    ("iam", "role", 2, 2),
    ("iam", "user", 2, 100),  # of a user, the path is in the ARN
    ("iam", "root", 1, 1),
)
_EXAMPLE = "arn:aws:iam::123456789012:role/Admin"


def is_named(caller: str, patterns: Iterable[str]) -> bool:
    """Say whether one of the patterns names the caller, or the role whose session it is."""
    names = [_parts(name) for name in _principals(caller)]
    return any(
        pattern == ANYBODY or any(_fits(name, _parts(pattern)) for name in names)
        for pattern in patterns
    )


def _principals(caller: str) -> tuple[str, ...]:
    """Give the caller, and for an assumed role's session the role's ARN as IAM policies have it.

    STS leaves the path out of a session's ARN, so a role with a path is named without it here.
    """
    session = _ASSUMED_ROLE.fullmatch(caller)
    if session is None:
        return (caller,)
    partition, account, role = session.groups()
    return (caller, f"arn:{partition}:iam::{account}:role/{role}")


def _parts(arn: str) -> list[str]:
    """Cut an ARN at every colon and slash, and keep these as parts of their own."""
    return re.split("([:/])", arn)


def _fits(name: list[str], pattern: list[str]) -> bool:
    return len(name) == len(pattern) and all(map(fnmatchcase, name, pattern))


def why_never(pattern: str) -> str | None:
    """Say why no caller whatever can match a pattern; None where one may."""
    if pattern == ANYBODY:
        return None
    fields = pattern.split(":", 5)
    if len(fields) < 6 or not fnmatchcase("arn", fields[0]):
        return f"is no ARN, such as {_EXAMPLE}; * stands for something within one part of it"
    _, partition, service, region, account, resource = fields
    if not (_WILDCARD.search(partition) or _PARTITION.fullmatch(partition)):
        return f"has the partition {partition!a}; accepted is one such as aws or aws-us-gov"
    if not fnmatchcase("", region):
        return f"has the region {region!a}; the ARN of a principal has none"
    if not (_WILDCARD.search(account) or _ACCOUNT.fullmatch(account)):
        return f"has the account {account!a}; accepted are 12 digits"
    return _why_no_resource(pattern, service, resource)


def _why_no_resource(pattern: str, service: str, resource: str) -> str | None:
    parts = resource.split("/")
    kinds = [
        (kind, least, most)
        for of, kind, least, most in _KINDS
        if fnmatchcase(of, service) and fnmatchcase(kind, parts[0])
    ]
    if not kinds:
        accepted = ", ".join(f"{of}::...:{kind}" for of, kind, _, _ in _KINDS)
        return f"names no kind of principal; accepted are {accepted}"
    if any(least <= len(parts) <= most for _, least, most in kinds):
        return None
    start = pattern.removesuffix(resource)
    kind, least, _ = kinds[0]
    if kind == "role" and len(parts) > least:
        return (
            "has a path, which a session of the role has not; "
            f"write {start}{parts[0]}/{parts[-1]}, as its session has it"
        )
    if kind == "assumed-role":
        return (
            f"has {len(parts)} parts where a session has three; "
            f"write {start}assumed-role/ROLE/SESSION, for every session {start}assumed-role/ROLE/*"
        )
    return f"has {len(parts)} parts behind the account; a {kind} has {least}"


def names_sessions(pattern: str) -> bool:
    """Say whether a pattern lets some sessions of a role pass and others not."""
    kind, *names = pattern.rpartition(":")[2].split("/")
    return len(names) == 2 and fnmatchcase("assumed-role", kind) and names[1] != ANYBODY

"""May this key be granted: every rule on users, blocks, keys and callers, and nothing else.

A refusal is a value. Steps are those of docs/lookup.md. `check_block` gives a claim that its signer
has still to prove; only what the signature covers, once it is verified, becomes a `Grant`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from eic_agent.errors import Reason
from eic_agent.lookup.callers import is_named
from eic_agent.lookup.keyblock import (
    KEY_TYPES,
    KeyBlock,
    MalformedKey,
    PublicKey,
    has_fingerprint,
    key_blob,
    parse_public_key,
    sha256_fingerprint,
)
from eic_agent.lookup.users import Account, Group

# InstanceOSUser of the API's SendSSHPublicKey.
_OS_USER = re.compile(
    r"[A-Za-z_][A-Za-z0-9@._-]{0,30}[A-Za-z0-9$_-]?"
    r"|(?=.{2,32}\Z)[0-9]{1,32}[A-Za-z@._-][A-Za-z0-9@._-]*[A-Za-z0-9$_-]?",
    re.ASCII,
)

_ID = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyRules:
    """The `[keys]` table of the configuration; times in seconds, 0 as lifetime for no limit."""

    max_lifetime_s: float = 60.0
    clock_skew_s: float = 240.0
    types: tuple[str, ...] = KEY_TYPES
    min_rsa_bits: int = 2048
    options: tuple[str, ...] = ()
    export_caller: bool = False


@dataclass(frozen=True, slots=True)
class UserRules:
    """Who may have pushed keys; all four lists must let a user pass.

    Shell patterns on the names of OS users and their groups, or ids where all are digits.
    """

    allow_users: tuple[str, ...] = ()
    deny_users: tuple[str, ...] = ()
    allow_groups: tuple[str, ...] = ()
    deny_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallerRule:
    """OS users, as in UserRules, and patterns of callers.py on who may push for them."""

    users: tuple[str, ...]
    callers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """All that an administrator can rule."""

    keys: KeyRules = KeyRules()
    users: UserRules = UserRules()
    callers: tuple[CallerRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """The OS user of a lookup; the account is asked for only where a rule needs it."""

    name: str
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a user or a key is refused; the detail is for people."""

    reason: Reason
    detail: str
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A block that passed all checks but that of its signature: nothing of it is believed yet."""

    block: KeyBlock
    key: PublicKey
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A key to print for sshd."""

    line: str
    fingerprint: str


def can_be_pushed_for(user: str) -> bool:
    """Say whether the API takes keys for a user of this name (InstanceOSUser)."""
    return _OS_USER.fullmatch(user) is not None


def check_user(
    user: str, policy: Policy, look_up: Callable[[str], Account | None]
) -> Subject | Refusal:
    """Refuse a user who can have no pushed keys (step 1) or whom policy rules out (step 2).

    `look_up` is asked only where a rule speaks of groups or ids. Then a user without an account is
    refused, and so is, where names of groups are denied, one of whose groups there is no name for.
    """
    if not can_be_pushed_for(user):
        return Refusal(
            Reason.UNADDRESSABLE_USER, "the API takes no key for such a name (InstanceOSUser)"
        )
    rules = policy.users
    subject = Subject(user)
    if _needs_account(policy) and not is_among(subject, rules.deny_users):
        subject = Subject(user, look_up(user))
        if subject.account is None:
            return _ruled_out(
                "the user database knows no such user, and rules speak of ids or groups"
            )
    groups = subject.account.groups if subject.account else ()
    nameless = [group.gid for group in groups if group.name is None]
    if is_among(subject, rules.deny_users):
        return _ruled_out("policy.deny_users names the user")
    if any(_is_listed(group, rules.deny_groups) for group in groups):
        return _ruled_out("policy.deny_groups names one of the user's groups")
    if nameless and not all(map(is_id, rules.deny_groups)):
        return _ruled_out(
            f"policy.deny_groups: the user is in group {nameless[0]}, which has no name"
        )
    if rules.allow_users and not is_among(subject, rules.allow_users):
        return _ruled_out("policy.allow_users does not name the user")
    if rules.allow_groups and not any(_is_listed(group, rules.allow_groups) for group in groups):
        return _ruled_out("policy.allow_groups names none of the user's groups")
    return subject


def _ruled_out(problem: str) -> Refusal:
    return Refusal(Reason.USER_NOT_ALLOWED, problem)


def _needs_account(policy: Policy) -> bool:
    users = policy.users
    named = [*users.allow_users, *users.deny_users]
    named += [user for rule in policy.callers for user in rule.users]
    return bool(users.allow_groups or users.deny_groups or any(map(is_id, named)))


def is_id(pattern: str) -> bool:
    """Say whether a pattern is the id of a user or group; the API takes no such name of a user."""
    return _ID.fullmatch(pattern) is not None


def is_among(subject: Subject, patterns: tuple[str, ...]) -> bool:
    """Say whether one of the patterns names the user, or is the id of a user who was looked up."""
    account = subject.account
    return any(
        (account is not None and account.uid == int(pattern))
        if is_id(pattern)
        else fnmatchcase(subject.name, pattern)
        for pattern in patterns
    )


def _is_listed(group: Group, patterns: tuple[str, ...]) -> bool:
    return any(
        group.gid == int(pattern)
        if is_id(pattern)
        else group.name is not None and fnmatchcase(group.name, pattern)
        for pattern in patterns
    )


def check_block(
    block: KeyBlock, instance_id: str, fingerprint: str | None, rules: KeyRules, now: float
) -> Claim | Refusal:
    """Check all that can be checked before the signature, cheapest first (step 7).

    `fingerprint` is that of the key sshd asks about, or None for all of them.
    """
    try:
        blob = key_blob(block.key_line)
    except MalformedKey as error:
        return Refusal(Reason.KEY_NOT_ALLOWED, str(error))
    own = sha256_fingerprint(blob)
    if fingerprint is not None and not has_fingerprint(blob, fingerprint):
        return Refusal(Reason.OTHER_KEY, f"sshd asks about {fingerprint}", own)
    if block.instance != instance_id:
        return Refusal(
            Reason.OTHER_INSTANCE, f"pushed for {block.instance!r}, this is {instance_id}", own
        )
    return _check_time(block.expires, rules, now, own) or _check_key(block, rules, own)


def _check_time(expires: int, rules: KeyRules, now: float, fingerprint: str) -> Refusal | None:
    left = expires - now
    if left <= 0:
        return Refusal(Reason.EXPIRED, f"expired {-left:.0f} s ago", fingerprint)
    if rules.max_lifetime_s and left > rules.max_lifetime_s + rules.clock_skew_s:
        return Refusal(
            Reason.EXPIRES_TOO_LATE,
            f"expires in {left:.0f} s; keys.max_lifetime_s {rules.max_lifetime_s:g} "
            f"and keys.clock_skew_s {rules.clock_skew_s:g} allow "
            f"{rules.max_lifetime_s + rules.clock_skew_s:g}",
            fingerprint,
        )
    return None


def _check_key(block: KeyBlock, rules: KeyRules, fingerprint: str) -> Claim | Refusal:
    try:
        key = parse_public_key(block.key_line)
    except MalformedKey as error:
        return Refusal(Reason.KEY_NOT_ALLOWED, str(error), fingerprint)
    if key.algorithm not in rules.types:
        return Refusal(
            Reason.KEY_NOT_ALLOWED, f"keys.types does not list {key.algorithm}", fingerprint
        )
    if key.rsa_bits is not None and key.rsa_bits < rules.min_rsa_bits:
        return Refusal(
            Reason.KEY_NOT_ALLOWED,
            f"RSA of {key.rsa_bits} bits; keys.min_rsa_bits is {rules.min_rsa_bits}",
            fingerprint,
        )
    return Claim(block, key, fingerprint)


def decide(claim: Claim, subject: Subject, policy: Policy, now: float) -> Grant | Refusal:
    """Grant a claim whose signature is verified, where its caller may push for the user.

    Steps 8 and 9; the time is checked once more, since verifying the signer may have taken some.
    The line is the key re-encoded: no byte of what metadata served is passed on
    but, with keys.export_caller, caller and request in plain characters.
    """
    refusal = _check_time(claim.block.expires, policy.keys, now, claim.fingerprint) or check_caller(
        claim.block.caller, subject, policy.callers, claim.fingerprint
    )
    if refusal is not None:
        return refusal
    options = list(policy.keys.options)
    if policy.keys.export_caller:
        options += _exported("EIC_CALLER", claim.block.caller)
        options += _exported("EIC_REQUEST", claim.block.request)
    line = claim.key.authorized_key
    return Grant(f"{','.join(options)} {line}" if options else line, claim.fingerprint)


def _exported(name: str, value: str | None) -> list[str]:
    """Give an option that sets a variable, some of whose characters the caller chose.

    What could end the quotes or stand for more than itself becomes a question mark.
    """
    if value is None:
        return []
    plain = re.sub(r"[^A-Za-z0-9:/+=,.@_-]", "?", value, flags=re.ASCII)
    return [f'environment="{name}={plain}"']


def check_caller(
    caller: str | None,
    subject: Subject,
    rules: tuple[CallerRule, ...],
    fingerprint: str | None = None,
) -> Refusal | None:
    """Apply the first rule whose users match; where none does, every caller may push."""
    at = deciding_rule(subject, rules)
    if at is None or (caller is not None and is_named(caller, rules[at].callers)):
        return None
    return Refusal(
        Reason.CALLER_NOT_ALLOWED,
        f"policy.rules number {at + 1}, which decides about {subject.name}, does not name "
        f"{caller or 'a push without caller'}",
        fingerprint,
    )


def deciding_rule(subject: Subject, rules: tuple[CallerRule, ...]) -> int | None:
    """Give the place of the first rule whose users match; None where none does."""
    return next((at for at, rule in enumerate(rules) if is_among(subject, rule.users)), None)

"""What a valid configuration says in vain or says wider than it looks; for `config check`.

Nothing here is an error: each line is a remark for whoever wrote the files.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from eic_agent.configuration.config import Loaded
from eic_agent.lookup.callers import names_sessions, why_never
from eic_agent.lookup.policy import (
    CallerRule,
    Subject,
    can_be_pushed_for,
    is_among,
    is_id,
)
from eic_agent.lookup.users import Account, UserDatabase
from eic_agent.metadata.deadline import Deadline

_WILDCARDS = frozenset("*?[")


def remarks(loaded: Loaded) -> tuple[str, ...]:
    """Give what the files themselves show, a line each that names its file."""
    rules = loaded.config.policy.callers
    places = rule_places(loaded)
    return (
        *loaded.notes,
        *_hidden_rules(rules, places),
        *(
            f"{place}: {remark}"
            for rule, place in zip(rules, places, strict=True)
            for remark in _of_rule(rule, loaded)
        ),
        *(
            f"{list_.place}: {list_.name} has {user!a}; {_NO_USER}"
            for list_ in _lists_of_users(loaded)
            for user in list_.users
            if not _may_be_a_user(user)
        ),
    )


def account_remarks(loaded: Loaded, users: UserDatabase, deadline: Deadline) -> tuple[str, ...]:
    """Give what the user database adds: names that nobody has, and ids that have two.

    Raises UsersUnavailable.
    """
    lists = _lists_of_users(loaded)
    named = {user for list_ in lists for user in list_.users if _is_name(user)}
    ids = users.user_ids(sorted(named), deadline)
    known = {name: uid for name, uid in ids.items() if uid is not None}
    if any(list_.users for list_ in lists):
        known = {**users.everybody(deadline), **known}
    groups = loaded.config.policy.users
    group_names = [g for g in (*groups.allow_groups, *groups.deny_groups) if _is_name(g)]
    gids = users.group_ids(sorted(set(group_names)), deadline)
    found = [
        f"{list_.place}: {list_.name} has {user!a}, whom the user database does not know"
        for list_ in lists
        for user in list_.users
        if _is_name(user) and ids[user] is None
    ]
    found += [
        f"{_shown(loaded.origins[f'policy.{key}'])}: policy.{key} has {group!a}, "
        "a group that the user database does not know"
        for key in ("allow_groups", "deny_groups")
        for group in getattr(groups, key)
        if _is_name(group) and gids[group] is None
    ]
    found += [remark for list_ in lists for remark in _twins(list_, known)]
    return tuple(found)


def _twins(list_: "_Users", known: Mapping[str, int]) -> Iterator[str]:
    """Name users whom a list does not mean, and who are the same user to the kernel."""
    by_id: dict[int, list[str]] = {}
    for name in sorted(known):
        by_id.setdefault(known[name], []).append(name)
    for uid, names in by_id.items():
        meant = [name for name in names if len(names) > 1 and _means(list_, name, uid)]
        others = [name for name in names if name not in meant]
        for name, other in itertools.product(meant, others):
            yield (
                f"{list_.place}: {list_.name} means {name!a} and not {other!a}, who has the "
                f'same user id and is let in as the same user; "{uid}" means both'
            )


def _means(list_: "_Users", name: str, uid: int) -> bool:
    return is_among(Subject(name, Account(uid)), list_.users)


@dataclass(frozen=True, slots=True)
class _Users:
    """One list of users of the configuration, and where it stands."""

    name: str
    users: tuple[str, ...]
    place: str


def _lists_of_users(loaded: Loaded) -> list[_Users]:
    policy = loaded.config.policy
    lists = [
        _Users(f"policy.{key}", getattr(policy.users, key), _shown(loaded.origins[f"policy.{key}"]))
        for key in ("allow_users", "deny_users")
        if getattr(policy.users, key)
    ]
    return lists + [
        _Users("users", rule.users, place)
        for rule, place in zip(policy.callers, rule_places(loaded), strict=True)
    ]


def rule_places(loaded: Loaded) -> list[str]:
    """Name each rule by its file and its number there."""
    files = loaded.origins.get("policy.rules", ())
    return [
        f"{file}: policy.rules number {files[: at + 1].count(file)}"
        for at, file in enumerate(files)
    ]


def _hidden_rules(rules: Sequence[CallerRule], places: Sequence[str]) -> Iterator[str]:
    for later, rule in enumerate(rules):
        before = [pattern for earlier in rules[:later] for pattern in earlier.users]
        if not all(covered(user, before) for user in rule.users):
            continue
        first = next(
            place
            for earlier, place in zip(rules, places, strict=True)
            if covered(rule.users[0], earlier.users)
        )
        yield f"{places[later]}: never asked, since {first} matches the same users before it"


def _of_rule(rule: CallerRule, loaded: Loaded) -> Iterator[str]:
    users = loaded.config.policy.users
    if all(covered(user, users.deny_users) for user in rule.users):
        yield "never asked, since policy.deny_users rules its users out"
    elif users.allow_users and not any(_may_meet(user, users.allow_users) for user in rule.users):
        yield "never asked, since policy.allow_users names none of its users"
    for caller in rule.callers:
        if (problem := why_never(caller)) is not None:
            yield f"callers has {caller!a}, which no caller can match: it {problem}"
        elif names_sessions(caller):
            yield (
                f"callers has {caller!a}: the name of a session is the caller's own choice, unless "
                "the role's trust policy binds it (sts:RoleSessionName); name the role alone"
            )


_NO_USER = "no key can be pushed for such a user (InstanceOSUser of the API)"


def _shown(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))


def _may_be_a_user(pattern: str) -> bool:
    return not _is_name(pattern) or can_be_pushed_for(pattern)


def _is_name(pattern: str) -> bool:
    """Whether a pattern stands for one name only, and is no id."""
    return not _WILDCARDS.intersection(pattern) and not is_id(pattern)


def covered(pattern: str, others: Sequence[str]) -> bool:
    """Say whether one of the others surely matches whatever the pattern matches.

    A pattern whose `[...]` makes that hard to tell counts as not covered, unless it stands there.
    """
    return pattern in others or any(_covers(other, pattern) for other in others)


def _covers(other: str, pattern: str) -> bool:
    """Whether each name that matches `pattern` matches `other`.

    What stands for anything in `pattern` can be met by a `*` of `other` only, so it is enough that
    `other`, with no wildcard but `*`, matches the text of `pattern`.
    """
    if other == "*":
        return True
    if is_id(pattern) or is_id(other):
        return False  # whose id it is, only the user database knows
    plain = not _WILDCARDS.intersection(other) - {"*"} and "[" not in pattern
    return (plain or _is_name(pattern)) and fnmatchcase(pattern, other)


def _may_meet(pattern: str, others: Sequence[str]) -> bool:
    """Whether some name may match both; only of single names it can be told that none does."""
    return not _is_name(pattern) or any(
        is_id(other) or fnmatchcase(pattern, other) for other in others
    )

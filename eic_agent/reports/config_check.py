"""`eic-agent config check`: what the agent would make of the configuration, and of a push."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from eic_agent.configuration import review
from eic_agent.configuration.config import Loaded
from eic_agent.errors import ConfigError, UsersUnavailable
from eic_agent.journal.entries import escape
from eic_agent.lookup.anchors import load_anchors
from eic_agent.lookup.callers import why_never
from eic_agent.lookup.policy import Refusal, Subject, check_caller, check_user, deciding_rule
from eic_agent.lookup.users import UserDatabase
from eic_agent.metadata.deadline import Deadline
from eic_agent.reports import reach

AGENT_USER = "eic-agent"
_USERS_S = 5.0  # for the user database


@dataclass(slots=True)
class Findings:
    """Errors and remarks, a line each, what to print besides, and whether all is well."""

    problems: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    ok: bool = True

    def fail(self, *problems: str) -> None:
        """Add what makes the configuration unusable."""
        self.problems += problems
        self.ok = False


def become_agent(users: UserDatabase) -> str | None:
    """Give up being root for the agent's identity; say whose eyes look where they are not its.

    Files that root can read and the agent cannot would be found by nobody else.
    """
    try:
        account = users.account(AGENT_USER, Deadline.after(_USERS_S))
    except UsersUnavailable as error:
        account, why = None, str(error)
    else:
        why = f"there is no user {AGENT_USER}"
    if os.geteuid() == (account.uid if account is not None else -1):
        return None
    if os.geteuid() != 0:
        return (
            f"looked at as user id {os.geteuid()}; root can look as {AGENT_USER}, as the agent does"
        )
    if account is None:
        return f"looked at as root, not as the agent does: {why}"
    gids = [group.gid for group in account.groups]
    os.setgroups(gids)
    os.setresgid(gids[0], gids[0], gids[0])
    os.setresuid(account.uid, account.uid, account.uid)
    return None


def check(
    load: Callable[[], Loaded],
    users: UserDatabase,
    user: str | None = None,
    caller: str | None = None,
    unit: Mapping[str, str] = MappingProxyType({}),
) -> Findings:
    """Read the configuration with all that it names, and try its policy on a user and a caller.

    `unit` is what `reach.unit_properties` told, before root was given up.
    """
    found = Findings()
    try:
        loaded = load()
        anchors = load_anchors(loaded.config.trust.anchors)
    except ConfigError as error:
        found.fail(*str(error).splitlines())
        return found
    # Nobody here chose what is in the system's store, where some are always skipped.
    skipped = () if loaded.config.trust.anchors == "system" else anchors.skipped
    found.problems += [*loaded.warnings, *skipped, *review.remarks(loaded)]
    found.problems += reach.remarks(loaded.config.imds.endpoint, unit)
    deadline = Deadline.after(_USERS_S)
    try:
        found.problems += review.account_remarks(loaded, users, deadline)
    except UsersUnavailable as error:
        found.problems.append(f"users and groups were not looked at: {error}")
    files = ", ".join(map(str, loaded.files)) or "no file, the defaults hold"
    found.results.append(f"valid: {files}")
    if user is not None:
        _try_policy(user, caller, loaded, users, deadline, found)
    return found


def _try_policy(
    user: str,
    caller: str | None,
    loaded: Loaded,
    users: UserDatabase,
    deadline: Deadline,
    found: Findings,
) -> None:
    policy = loaded.config.policy
    try:
        subject = check_user(user, policy, lambda name: users.account(name, deadline))
    except UsersUnavailable as error:
        found.fail(f"{user}: nothing can be decided: {error}")
        return
    if isinstance(subject, Refusal):
        found.ok = False
        found.results.append(f"{user}: {subject.reason.value}: {subject.detail}")
        return
    found.results.append(f"{user}: may have pushed keys")
    at = deciding_rule(subject, policy.callers)
    rule = "no rule" if at is None else review.rule_places(loaded)[at]
    if caller is None:
        found.results.append(f"{rule} decides about who pushes them{_who(subject, loaded)}")
        return
    if (problem := why_never(caller)) is not None:
        found.problems.append(f"{caller!a}, as a caller, {problem}")
    refusal = check_caller(caller, subject, policy.callers)
    found.ok = found.ok and refusal is None
    verdict = "accepted" if refusal is None else refusal.reason.value
    found.results.append(f"{user}, pushed by {caller}: {verdict}, as {rule} decides")


def _who(subject: Subject, loaded: Loaded) -> str:
    rules = loaded.config.policy.callers
    at = deciding_rule(subject, rules)
    if at is None:
        return ": everybody may whom IAM lets push"
    return f": {', '.join(rules[at].callers) or 'nobody may'}"


def text(lines: list[str]) -> str:
    """Give lines for a terminal, each ended."""
    return "".join(f"{escape(line)}\n" for line in lines)

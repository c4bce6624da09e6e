"""`eic-agent explain`: whether sshd asks us for a user, and the lookup's steps."""

import datetime
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eic_agent.journal.entries import escape
from eic_agent.reports import wire
from eic_agent.resident.connection import EXPLAIN_PROTOCOL
from eic_agent.sshd.access import Access

_MOMENTS = ("expires", "holds_until")  # facts that are seconds since the epoch


@dataclass(frozen=True, slots=True)
class Report:
    """What sshd does for the user, the lookup as data, and by whose eyes that was seen."""

    access: Access
    lookup: Mapping[str, Any]
    seen_by: str

    @property
    def grants(self) -> bool:
        """Whether a login would get in: sshd asks us, and is given a key."""
        return self.access.asks is True and bool(self.lookup["authorized_keys"])

    def data(self) -> dict[str, Any]:
        """Give everything as what JSON can hold; `granted` is the verdict."""
        return {
            "granted": self.grants,
            "seen_by": self.seen_by,
            "sshd": self.access.data(),
            **self.lookup,
        }

    def text(self, *, verbose: bool = False) -> str:
        """Give the verdict and the reason, then a line for each step; verbose: all facts, too."""
        lines = [*self._verdict(), f"Seen by {self.seen_by}.", ""]
        lines += self._step_0(verbose=verbose)
        for step in self.lookup["steps"]:
            title = f"{step['step']}. {step['title']}"
            if not step["findings"]:
                lines += [f"{title}: not reached"]
            elif not verbose:
                lines += [f"{title}: {_in_short(step['findings'])}"]
            else:
                for finding in step["findings"]:
                    facts = {k: v for k, v in finding.items() if k != "outcome"}
                    lines.append(f"{title}: {finding['outcome']}")
                    lines += [f"     {name}: {shown(name, value)}" for name, value in facts.items()]
        return "\n".join(map(escape, lines))

    def _verdict(self) -> Iterator[str]:
        user, keys = self.lookup["user"], self.lookup["authorized_keys"]
        if self.access.asks is None:
            yield f"Not known: whether sshd asks eic-agent for {user} is not seen without root."
        for problem in self.access.problems[:1]:
            yield f"No login for {user}: {problem.what}. {problem.remedy}."
        if self.lookup["undecided"]:
            reason = self.lookup["undecided"]
            yield f"Nothing could be decided: {reason}: {self.lookup['detail']}"
        elif keys:
            asks = self.access.asks
            would = "sshd is told of" if asks else "eic-agent would tell sshd of"
            yield f"{would} {len(keys)} key(s) for {user}."
        else:
            yield f"sshd is told of no key for {user}: {_why(self.lookup)}"

    def _step_0(self, *, verbose: bool) -> Iterator[str]:
        access = self.access
        title = "0. sshd asks"
        if access.asks is None:
            yield f"{title}: not seen without root ({access.not_seen})"
        for problem in access.problems:
            yield f"{title}: no: {problem.what}"
        if access.asks:
            yield f"{title}: ok, as {access.command_user} ({access.set_at})"
        for remark in access.remarks:
            yield f"{title}: mind: {remark.what}"
        if access.name not in (None, access.user):
            yield f"{title}: the user database calls {access.user} {access.name}: push for that"
        if verbose and access.command is not None:
            yield f"     command: {access.command}"


def ask_agent(path: Path, user: str, fingerprint: str | None) -> dict[str, Any]:
    """Have the running agent look and explain. Raises wire.NotRunning; it answers root only."""
    fields = (EXPLAIN_PROTOCOL, os.fsencode(user), os.fsencode(fingerprint or ""))
    data: dict[str, Any] = json.loads(wire.ask(path, b"\0".join(fields)))
    return data


def _why(lookup: Mapping[str, Any]) -> str:
    """Give the last thing that a step found against a key."""
    reasons = list(
        dict.fromkeys(f"{one['reason']}: {one['detail']}" for one in lookup["decisions"])
    )
    if reasons:
        return "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
    found = [one["outcome"] for step in lookup["steps"] for one in step["findings"]]
    bad = [outcome for outcome in found if outcome not in ("ok", "compares")]
    return bad[-1] if bad else "none was offered"


def _in_short(findings: list[dict[str, Any]]) -> str:
    outcomes = [one["outcome"] for one in findings if one["outcome"] != "compares"]
    counted = dict.fromkeys(outcomes or ["compared"])
    texts = []
    for outcome in counted:
        times = outcomes.count(outcome)
        texts.append(outcome if times < 2 else f"{outcome} ({times} times)")
    problems = [str(one["problem"]) for one in findings if one.get("problem")]
    return ", ".join(texts) + (f": {problems[0]}" if problems else "")


def shown(name: str, value: object) -> str:
    """Give a fact for people; moments as UTC."""
    if name in _MOMENTS and isinstance(value, (int, float)):
        try:
            moment = datetime.datetime.fromtimestamp(value, datetime.timezone.utc)
        except (ValueError, OverflowError, OSError):
            return f"{value} (beyond any calendar)"
        return f"{value:.0f} ({moment:%Y-%m-%d %H:%M:%S} UTC)"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown('', item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(shown("", item) for item in value) or "none"
    return "none" if value in (None, "") else str(value)

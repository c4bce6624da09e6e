"""`eic-agent explain`: the nine steps of a lookup, with what was fetched, computed, compared."""

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from eic_agent.journal.entries import escape
from eic_agent.lookup.authorizer import Authorizer
from eic_agent.lookup.question import Answer, Question
from eic_agent.metadata.deadline import Deadline

STEPS = (
    "Name",
    "User policy",
    "Identity",
    "Active keys",
    "Signer",
    "Blocks",
    "Block checks",
    "Caller policy",
    "Grant",
)

_MOMENTS = ("expires", "holds_until")  # facts that are seconds since the epoch


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found, once; a step over several blocks finds something for each."""

    step: int
    outcome: str
    facts: Mapping[str, object]


@dataclass(slots=True)
class Explanation:
    """The findings of one lookup in their order, and its answer."""

    question: Question
    findings: list[Finding] = field(default_factory=list)
    answer: Answer = field(default_factory=Answer)

    def data(self) -> dict[str, object]:
        """Give everything as what JSON can hold."""
        return {
            "user": self.question.user,
            "fingerprint": self.question.fingerprint,
            "steps": [
                {
                    "step": number,
                    "title": title,
                    "findings": [
                        {"outcome": finding.outcome, **_plain_facts(finding)}
                        for finding in self.findings
                        if finding.step == number
                    ],
                }
                for number, title in enumerate(STEPS, start=1)
            ],
            "decisions": [_plain(decision) for decision in self.answer.decisions],
            "authorized_keys": list(self.answer.lines),
            "undecided": self.answer.undecided.value if self.answer.undecided else None,
            "detail": self.answer.detail,
        }

    def text(self) -> str:
        """Give everything for people: a line for each finding, its facts indented below."""
        lines = []
        for number, title in enumerate(STEPS, start=1):
            findings = [finding for finding in self.findings if finding.step == number]
            if not findings:
                lines.append(f"{number}. {title}: not reached")
            for finding in findings:
                lines.append(f"{number}. {title}: {escape(finding.outcome)}")
                lines += [
                    f"     {name}: {escape(_shown(name, value))}"
                    for name, value in _plain_facts(finding).items()
                ]
        return "\n".join([*lines, self._conclusion()])

    def _conclusion(self) -> str:
        if self.answer.undecided is not None:
            reason = self.answer.undecided.value
            return f"Nothing could be decided: {reason}: {escape(self.answer.detail)}"
        if self.answer.lines:
            return f"sshd would be told of {len(self.answer.lines)} key(s)."
        return "sshd would be told of no key."


def explain(authorizer: Authorizer, question: Question, deadline: Deadline) -> Explanation:
    """Run a lookup as sshd's would, and keep what every step found; the journal is told nothing."""
    explanation = Explanation(question)

    def trace(step: int, outcome: str, **facts: object) -> None:
        explanation.findings.append(Finding(step, outcome, facts))

    explanation.answer = authorizer.lookup(question, deadline, trace)
    return explanation


def _plain_facts(finding: Finding) -> dict[str, object]:
    return {name: _plain(value) for name, value in finding.facts.items()}


def _plain(value: object) -> object:
    """Give a value as what JSON can hold; bytes as text, escaped where they are not ASCII."""
    if isinstance(value, bytes):
        return value.decode("ascii", "backslashreplace")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _shown(name: str, value: object) -> str:
    if name in _MOMENTS and isinstance(value, (int, float)):
        try:
            moment = datetime.datetime.fromtimestamp(value, datetime.timezone.utc)
        except (ValueError, OverflowError, OSError):
            return f"{value} (beyond any calendar)"
        return f"{value:.0f} ({moment:%Y-%m-%d %H:%M:%S} UTC)"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown('', item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_shown("", item) for item in value) or "none"
    return "none" if value in (None, "") else str(value)

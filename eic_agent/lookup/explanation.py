"""The nine steps of a lookup as data: what each fetched, computed and compared (`explain`)."""

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from eic_agent.errors import Reason
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


def explain(authorizer: Authorizer, question: Question, deadline: Deadline) -> Explanation:
    """Run a lookup as sshd's would, and keep what every step found; the journal is told nothing."""
    explanation = Explanation(question)

    def trace(step: int, outcome: str, **facts: object) -> None:
        explanation.findings.append(Finding(step, outcome, facts))

    explanation.answer = authorizer.lookup(question, deadline, trace)
    return explanation


def undecided(question: Question, reason: Reason, detail: str) -> Explanation:
    """Explain that no step was taken."""
    return Explanation(question, answer=Answer(undecided=reason, detail=detail))


def _plain_facts(finding: Finding) -> dict[str, object]:
    return {name: _plain(value) for name, value in finding.facts.items()}


def _plain(value: object) -> object:
    """Give a value as what JSON can hold; bytes as text, escaped where they are not ASCII."""
    if isinstance(value, bytes):
        return value.decode("ascii", "backslashreplace")
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value

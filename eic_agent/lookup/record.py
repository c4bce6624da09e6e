"""What the journal is told of a lookup (step 9), before sshd is told anything.

An entry without a login is a question; a login without an entry would be a hole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from eic_agent.errors import Reason
from eic_agent.journal.entries import Decision
from eic_agent.journal.writer import Journal
from eic_agent.lookup.question import Answer, Question
from eic_agent.metadata.deadline import Deadline

_NOT_RECORDED = "the journal takes no entry, and none is granted without"


@dataclass(frozen=True, slots=True)
class Recorder:
    """Writes down answers; `required` says to refuse what the journal does not take in time."""

    journal: Journal
    required: bool

    def record(self, question: Question, answer: Answer, deadline: Deadline) -> Answer:
        """Give what sshd may be told of the answer: what is written down, or kept to be.

        Waits for the journal until the deadline, if it must.
        """
        if answer.undecided is not None:
            self.journal.problem(answer.undecided, answer.detail, user=question.user)
            return answer
        lines: list[str] = []
        decisions: list[Decision] = []
        for decision, line in _with_lines(answer):
            final = decision
            if line is not None:
                if self.journal.grant(decision, deadline.remaining(), required=self.required):
                    lines.append(line)
                else:
                    final = _not_recorded(decision)
            if not final.granted:
                self.journal.refusal(final)
            decisions.append(final)
        return replace(answer, lines=tuple(lines), decisions=tuple(decisions))

    def undelivered(self, answer: Answer) -> None:
        """Add to what was recorded of an answer that sshd's client did not take it."""
        for decision in answer.decisions:
            if decision.granted:
                self.journal.undelivered(decision)


def _with_lines(answer: Answer) -> Iterator[tuple[Decision, str | None]]:
    """Give each decision with its line, grants first: what waits for them must not be others."""
    granted = [decision for decision in answer.decisions if decision.granted]
    yield from zip(granted, answer.lines, strict=True)
    yield from ((decision, None) for decision in answer.decisions if not decision.granted)


def _not_recorded(decision: Decision) -> Decision:
    return replace(decision, granted=False, reason=Reason.NOT_RECORDED, detail=_NOT_RECORDED)

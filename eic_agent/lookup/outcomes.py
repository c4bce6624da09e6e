"""What became of each block of a document, and what of it the journal is told."""

from collections import Counter
from dataclasses import dataclass

from eic_agent.errors import Reason
from eic_agent.journal.entries import Decision
from eic_agent.lookup.keyblock import KeyBlock
from eic_agent.lookup.policy import Grant, Refusal
from eic_agent.lookup.question import Question

# A forged document can hold thousands of blocks; the journal is told of so many of each reason,
# and how many more there are.
_MOST_UNPROVED = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one block; its caller may be named only where its signature is verified."""

    result: Grant | Refusal
    block: KeyBlock | None = None
    verified: bool = False

    @property
    def reason(self) -> Reason | None:
        """Why the block is refused; None where it is granted."""
        return self.result.reason if isinstance(self.result, Refusal) else None

    def decision(
        self, question: Question, instance_id: str | None, latency_s: float, now: float
    ) -> Decision:
        """Say it for the journal, naming only what is proved."""
        result, block = self.result, self.block
        return Decision(
            granted=isinstance(result, Grant),
            reason=self.reason,
            detail=result.detail if isinstance(result, Refusal) else "",
            user=question.user,
            fingerprint=result.fingerprint,
            caller=block.caller if block and self.verified else None,
            request=block.request if block and self.verified else None,
            instance=instance_id,
            expires=block.expires if block else None,
            latency_us=round(latency_s * 1_000_000),
            sshd_pid=question.sshd_pid,
            client_pid=question.client_pid,
            client_uid=question.client_uid,
            decided_at=now,
        )


class Outcomes:
    """Every outcome that is proved; of the others the first of each reason, and how many more."""

    def __init__(self) -> None:
        self._proved: list[Outcome] = []
        self._unproved: list[Outcome] = []
        self._counts: Counter[Reason] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome, or count it."""
        if isinstance(outcome.result, Grant) or outcome.verified:
            self._proved.append(outcome)
            return
        reason = outcome.result.reason
        self._counts[reason] += 1
        if self._counts[reason] <= _MOST_UNPROVED:
            self._unproved.append(outcome)

    def all(self) -> list[Outcome]:
        """Give what is proved first, and last what stands for the many."""
        many = [
            Outcome(Refusal(reason, f"{count - _MOST_UNPROVED} more of this reason"))
            for reason, count in self._counts.items()
            if count > _MOST_UNPROVED
        ]
        return [*self._proved, *self._unproved, *many]

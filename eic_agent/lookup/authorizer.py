"""One lookup: fetch, trust, policy, and what the journal is told (docs/lookup.md has the steps).

Active keys are fetched for every lookup and never kept: a key pushed a moment ago must be seen.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from eic_agent.errors import (
    ConfigError,
    MetadataUnavailable,
    Reason,
    UntrustedMaterial,
    UsersUnavailable,
)
from eic_agent.journal.writer import Journal
from eic_agent.lookup.clock import Clock
from eic_agent.lookup.flights import Daemons, Flights, Workers
from eic_agent.lookup.identity import Partition, check_instance_id, read_hardware
from eic_agent.lookup.judge import Judge
from eic_agent.lookup.memory import Memory
from eic_agent.lookup.outcomes import Outcome
from eic_agent.lookup.policy import Grant, Policy, Refusal, check_user
from eic_agent.lookup.question import Answer, Question
from eic_agent.lookup.record import Recorder
from eic_agent.lookup.signers import Signers
from eic_agent.lookup.trace import Trace, untraced
from eic_agent.lookup.trust import TrustRules
from eic_agent.lookup.users import Account, UserDatabase
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import NEVER, Deadline


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration rules of a lookup."""

    policy: Policy
    trust: TrustRules
    sysfs_root: Path
    deadline_s: float
    partitions: tuple[Partition, ...] = ()
    record_required: bool = False  # refuse what the journal has no entry of


@dataclass
class Counters:
    """What happened since the start; latencies are those of the last lookups, in seconds."""

    lookups: int = 0
    granted: int = 0
    granted_at: float | None = None  # the last one, in seconds since the epoch
    refused: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=1000))


class Authorizer:
    """Answers lookups; safe to use from many threads at once."""

    def __init__(
        self,
        metadata: MetadataClient,
        rules: Rules,
        journal: Journal,
        clock: Callable[[], float],
        workers: Workers,
        counters: Counters,
        users: UserDatabase,
        ends: Deadline = NEVER,
        memory: Memory | None = None,
    ) -> None:
        """`counters`, `users` and `memory` may be from before, under another configuration.

        No request lasts beyond `ends`, whoever else may wait for it: a process that answers one
        lookup must not outlive its deadline.
        """

        def bound() -> Deadline:
            return ends.at_most(rules.deadline_s)

        self.metadata = metadata
        self._rules = rules
        self._recorder = Recorder(journal, rules.record_required)
        self._clock = clock
        self._lock = threading.Lock()
        self._instance_id: str | None = None
        # In threads of their own: a user database that hangs leaves metadata its workers.
        self._accounts: Flights[str, Account | None] = Flights(
            Daemons(), lambda user: users.account(user, bound()), "{} from the user database"
        )
        self._claimed_id: Flights[None, str] = Flights(
            workers, lambda _: metadata.instance_id(bound()), "the instance id"
        )
        self._active_keys: Flights[str, bytes | None] = Flights(
            workers, lambda user: metadata.active_keys(user, bound()), "the keys of {}"
        )
        memory = Memory() if memory is None else memory
        skew_s = rules.policy.keys.clock_skew_s
        self._believed = Clock(clock, memory, skew_s, lambda: metadata.clock_offset_s)
        self.signers = Signers(
            metadata, rules.trust, self._believed, workers, bound, partitions=rules.partitions
        )
        self._judge = Judge(rules.policy, self.signers, self._believed, memory)
        self.counters = counters

    def lookup(self, question: Question, deadline: Deadline, trace: Trace = untraced) -> Answer:
        """Decide which keys may be granted; sshd is told what `record` makes of the answer."""
        begun = time.monotonic()
        self._believed.now()  # whatever is asked: how late it is must be known when it is needed
        try:
            outcomes = self._decide(question, deadline, trace)
        except (MetadataUnavailable, UsersUnavailable) as error:
            answer = Answer(undecided=Reason.METADATA_UNAVAILABLE, detail=str(error))
        except ConfigError as error:
            answer = Answer(undecided=Reason.INVALID_CONFIG, detail=str(error))
        else:
            answer = Answer(
                lines=tuple(o.result.line for o in outcomes if isinstance(o.result, Grant)),
                decisions=tuple(
                    o.decision(question, self._instance_id, time.monotonic() - begun, self._clock())
                    for o in outcomes
                ),
            )
        if trace is untraced:  # who wants an explanation is no login
            self._count(answer, time.monotonic() - begun)
        return answer

    def prepare(self, deadline: Deadline) -> float:
        """Do ahead what a lookup needs besides the keys; give the seconds until that is due again.

        Raises UntrustedMaterial, MetadataUnavailable or ConfigError.
        """
        return self.signers.prove_ahead(self._check_identity(deadline, untraced), deadline)

    def record(self, question: Question, answer: Answer, deadline: Deadline) -> Answer:
        """Tell the journal (step 9), which may take until the deadline; give what sshd may have."""
        recorded = self._recorder.record(question, answer, deadline)
        if recorded.lines:
            self.counters.granted_at = self._clock()
        if missing := len(answer.lines) - len(recorded.lines):
            with self._lock:
                self.counters.granted -= missing
                self.counters.refused[Reason.NOT_RECORDED.value] += missing
        return recorded

    def undelivered(self, answer: Answer) -> None:
        """Tell the journal that sshd's client did not take a recorded answer."""
        self._recorder.undelivered(answer)

    def _decide(self, question: Question, deadline: Deadline, trace: Trace) -> list[Outcome]:
        subject = check_user(
            question.user,
            self._rules.policy,
            lambda user: self._accounts.get(user, deadline.remaining()),
        )
        if isinstance(subject, Refusal) and subject.reason is Reason.UNADDRESSABLE_USER:
            trace(1, subject.reason.value, user=question.user, problem=subject.detail)
            return []  # no key can have been pushed, so none is decided about
        trace(1, "ok", user=question.user)
        if isinstance(subject, Refusal):
            trace(2, subject.reason.value, problem=subject.detail)
            return [Outcome(replace(subject, fingerprint=question.fingerprint))]
        trace(2, "ok", rules=self._rules.policy.users)
        try:
            instance_id = self._check_identity(deadline, trace)
        except UntrustedMaterial as error:
            trace(3, error.reason.value, problem=error.detail)
            return [Outcome(Refusal(error.reason, error.detail, question.fingerprint))]
        document = self._active_keys.get(question.user, deadline.remaining())
        if document is None:
            trace(4, "nobody pushed a key for this user")
            return []
        trace(4, "ok", bytes=len(document))
        outcomes = self._judge.outcomes(document, question, subject, instance_id, deadline, trace)
        if any(outcome.reason is Reason.OTHER_INSTANCE for outcome in outcomes):
            self._forget_identity()
        return outcomes

    def _check_identity(self, deadline: Deadline, trace: Trace) -> str:
        """Ask metadata which instance this is, and the hardware whether that is true (step 3)."""
        with self._lock:
            known = self._instance_id
        if known is not None:
            trace(3, "ok", instance=known, source="checked before")
            return known
        hardware = read_hardware(self._rules.sysfs_root)
        claimed = "" if hardware is None else self._claimed_id.get(None, deadline.remaining())
        trace(3, "compares", metadata=claimed, hardware=hardware)
        checked = check_instance_id(claimed, hardware)
        with self._lock:
            self._instance_id = checked
        trace(3, "ok", instance=checked)
        return checked

    def _forget_identity(self) -> None:
        """Ask again next time: on Xen the id was metadata's word alone, perhaps a forged one."""
        with self._lock:
            self._instance_id = None

    def _count(self, answer: Answer, latency_s: float) -> None:
        with self._lock:
            self.counters.lookups += 1
            self.counters.latencies_s.append(latency_s)
            for decision in answer.decisions:
                if decision.reason is None:
                    self.counters.granted += 1
                else:
                    self.counters.refused[decision.reason.value] += 1
            if answer.undecided is not None:
                self.counters.undecided[answer.undecided.value] += 1

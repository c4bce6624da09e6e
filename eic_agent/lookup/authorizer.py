"""One lookup: fetch, trust, policy, and what the journal is told (docs/lookup.md has the steps).

Active keys are fetched for every lookup and never kept: a key pushed a moment ago must be seen.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from eic_agent.errors import ConfigError, MetadataUnavailable, Reason, UntrustedMaterial
from eic_agent.journal import Decision, Journal
from eic_agent.lookup.flights import Daemons, Flights, Workers
from eic_agent.lookup.identity import check_instance_id, read_hardware
from eic_agent.lookup.keyblock import KeyBlock, MalformedBlock, parse_blocks
from eic_agent.lookup.policy import Claim, Grant, Policy, Refusal, check_block, check_user, decide
from eic_agent.lookup.signers import Signers
from eic_agent.lookup.trace import Trace, untraced
from eic_agent.lookup.trust import TrustedSigner, TrustRules, signed_by
from eic_agent.lookup.users import group_names
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import NEVER, Deadline

# A forged document can hold thousands of blocks; the journal is told of so many of each reason,
# and how many more there are.
_MOST_UNPROVED = 10


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration rules of a lookup."""

    policy: Policy
    trust: TrustRules
    sysfs_root: Path
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Question:
    """What sshd asks: the user, and the fingerprint of the key offered, or None for every key."""

    user: str
    fingerprint: str | None = None
    sshd_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Lines for sshd, and for the journal what was decided; `undecided` where nothing could be."""

    lines: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    undecided: Reason | None = None
    detail: str = ""


@dataclass
class Counters:
    """What happened since the start; latencies are those of the last lookups, in seconds."""

    lookups: int = 0
    granted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=1000))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one block; its caller may be named only where its signature is verified."""

    result: Grant | Refusal
    block: KeyBlock | None = None
    verified: bool = False


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
        ends: Deadline = NEVER,
    ) -> None:
        """`counters` may have counted before, under another configuration.

        No request lasts beyond `ends`, whoever else may wait for it: a process that answers one
        lookup must not outlive its deadline.
        """

        def bound() -> Deadline:
            return ends.at_most(rules.deadline_s)

        self.metadata = metadata
        self._rules = rules
        self._journal = journal
        self._clock = clock
        self._bound = bound
        self._instance_id: str | None = None
        self._group_flights: Flights[frozenset[str]] = Flights(Daemons())
        self._id_flights: Flights[str] = Flights(workers)
        self._key_flights: Flights[bytes | None] = Flights(workers)
        self._lock = threading.Lock()
        self.signers = Signers(metadata, rules.trust, clock, workers, bound)
        self.counters = counters

    def lookup(self, question: Question, deadline: Deadline, trace: Trace = untraced) -> Answer:
        """Decide which keys sshd may be told of; `record` the answer once it was delivered."""
        begun = time.monotonic()
        try:
            outcomes = self._decide(question, deadline, trace)
        except MetadataUnavailable as error:
            answer = Answer(undecided=Reason.METADATA_UNAVAILABLE, detail=str(error))
        except ConfigError as error:
            answer = Answer(undecided=Reason.INVALID_CONFIG, detail=str(error))
        else:
            answer = Answer(
                lines=tuple(o.result.line for o in outcomes if isinstance(o.result, Grant)),
                decisions=tuple(_decision(question, o, begun, self._instance_id) for o in outcomes),
            )
        self._count(answer, time.monotonic() - begun)
        return answer

    def record(self, question: Question, answer: Answer, *, delivered: bool = True) -> None:
        """Tell the journal (step 9); what sshd was not told is not called granted."""
        for decision in answer.decisions:
            if delivered or not decision.granted:
                self._journal.decision(decision)
        if answer.undecided is not None:
            self._journal.problem(answer.undecided, answer.detail, user=question.user)

    def _decide(self, question: Question, deadline: Deadline, trace: Trace) -> list[_Outcome]:
        refusal = check_user(
            question.user,
            self._rules.policy.users,
            lambda user: self._group_names(user, deadline),
        )
        if refusal is not None and refusal.reason is Reason.UNADDRESSABLE_USER:
            trace(1, refusal.reason.value, user=question.user, problem=refusal.detail)
            return []  # no key can have been pushed, so none is decided about
        trace(1, "ok", user=question.user)
        if refusal is not None:
            trace(2, refusal.reason.value, problem=refusal.detail)
            return [_Outcome(replace(refusal, fingerprint=question.fingerprint))]
        trace(2, "ok", rules=self._rules.policy.users)
        try:
            instance_id = self._check_identity(deadline, trace)
        except UntrustedMaterial as error:
            trace(3, error.reason.value, problem=error.detail)
            return [_Outcome(Refusal(error.reason, error.detail, question.fingerprint))]
        document = self._active_keys(question.user, deadline)
        if document is None:
            trace(4, "nobody pushed a key for this user")
            return []
        trace(4, "ok", bytes=len(document))
        return self._judge(document, question, instance_id, deadline, trace)

    def _group_names(self, user: str, deadline: Deadline) -> frozenset[str]:
        """Ask the user database, which may take longer than there is time.

        Raises MetadataUnavailable then: without the groups nothing can be decided.
        """
        return self._group_flights.get(
            f"the groups of {user}", lambda: group_names(user), deadline.remaining()
        )

    def _check_identity(self, deadline: Deadline, trace: Trace) -> str:
        """Ask metadata which instance this is, and the hardware whether that is true (step 3)."""
        with self._lock:
            known = self._instance_id
        if known is not None:
            trace(3, "ok", instance=known, source="checked before")
            return known
        hardware = read_hardware(self._rules.sysfs_root)
        claimed = "" if hardware is None else self._claimed_id(deadline)
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

    def _claimed_id(self, deadline: Deadline) -> str:
        def fetch() -> str:
            return self.metadata.instance_id(self._bound())

        return self._id_flights.get("the instance id", fetch, deadline.remaining())

    def _active_keys(self, user: str, deadline: Deadline) -> bytes | None:
        def fetch() -> bytes | None:
            return self.metadata.active_keys(user, self._bound())

        return self._key_flights.get(f"keys of {user}", fetch, deadline.remaining())

    def _judge(
        self,
        document: bytes,
        question: Question,
        instance_id: str,
        deadline: Deadline,
        trace: Trace,
    ) -> list[_Outcome]:
        """Decide about every block (steps 5 to 9).

        The signer is asked for only where a block has passed every cheaper check: a key that is
        not the one sshd asks about costs no chain and no staple.
        """
        now = self._clock()
        keys = self._rules.policy.keys
        outcomes = _Outcomes()
        claims: list[Claim] = []
        for block in parse_blocks(document):
            if not deadline.remaining():
                raise MetadataUnavailable(f"{len(document)} bytes of keys take too long to read")
            if isinstance(block, MalformedBlock):
                trace(6, Reason.MALFORMED_BLOCK.value, problem=block.problem)
                outcomes.add(_Outcome(Refusal(Reason.MALFORMED_BLOCK, block.problem)))
                continue
            trace(6, "ok", expires=block.expires, instance=block.instance, key=block.key_line)
            checked = check_block(block, instance_id, question.fingerprint, keys, now)
            if isinstance(checked, Claim):
                claims.append(checked)
            elif checked.reason is not Reason.OTHER_KEY:
                outcomes.add(_Outcome(self._with_clock(checked), block))
            if isinstance(checked, Refusal):
                if checked.reason is Reason.OTHER_INSTANCE:
                    self._forget_identity()
                trace(7, checked.reason.value, key=checked.fingerprint, problem=checked.detail)
        if claims:
            for outcome in self._prove(claims, question.user, instance_id, deadline, trace):
                outcomes.add(outcome)
        return outcomes.all()

    def _prove(
        self, claims: list[Claim], user: str, instance_id: str, deadline: Deadline, trace: Trace
    ) -> list[_Outcome]:
        """Verify the signatures of claims, and apply the caller policy to what they cover."""
        try:
            signer = self.signers.get(instance_id, deadline, trace)
            genuine = [signed_by(claim.block, signer) for claim in claims]
            if not all(genuine):
                successor = self._successor(signer, instance_id, deadline, trace)
                if successor is not None:  # both may have signed what is pushed now
                    genuine = [
                        by_first or signed_by(claim.block, successor)
                        for claim, by_first in zip(claims, genuine, strict=True)
                    ]
        except UntrustedMaterial as error:
            trace(5, error.reason.value, problem=error.detail)
            return [
                _Outcome(Refusal(error.reason, error.detail, claim.fingerprint), claim.block)
                for claim in claims
            ]
        return [
            self._conclude(claim, user, trace, genuine=is_genuine)
            for claim, is_genuine in zip(claims, genuine, strict=True)
        ]

    def _successor(
        self, doubted: TrustedSigner, instance_id: str, deadline: Deadline, trace: Trace
    ) -> TrustedSigner | None:
        try:
            return self.signers.successor(doubted, instance_id, deadline, trace)
        except MetadataUnavailable as error:  # must not cost the keys that the doubted one signed
            trace(5, "no other signer", problem=str(error))
            return None

    def _conclude(self, claim: Claim, user: str, trace: Trace, *, genuine: bool) -> _Outcome:
        if not genuine:
            problem = "the signature is not the signer's over these bytes"
            trace(7, Reason.BAD_SIGNATURE.value, key=claim.fingerprint, problem=problem)
            refusal = Refusal(Reason.BAD_SIGNATURE, problem, claim.fingerprint)
            return _Outcome(refusal, claim.block)
        trace(7, "ok", key=claim.fingerprint)
        result = decide(claim, user, self._rules.policy, self._clock())
        block = claim.block
        if isinstance(result, Refusal):
            trace(8, result.reason.value, caller=block.caller, problem=result.detail)
        else:
            trace(8, "ok", caller=block.caller, request=block.request)
            trace(9, "granted", key=claim.fingerprint, line=result.line)
        return _Outcome(result, block, verified=True)

    def _with_clock(self, refusal: Refusal) -> Refusal:
        """Add to a refusal about time how far this machine's clock is from metadata's."""
        offset = self.metadata.clock_offset_s
        if refusal.reason not in (Reason.EXPIRED, Reason.EXPIRES_TOO_LATE) or offset is None:
            return refusal
        side = "ahead of" if offset >= 0 else "behind"
        note = f"this machine's clock is {abs(offset):.0f} s {side} metadata's"
        return replace(refusal, detail=f"{refusal.detail}; {note}")

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


class _Outcomes:
    """Every outcome that is proved; of the others the first of each reason, and how many more."""

    def __init__(self) -> None:
        self._proved: list[_Outcome] = []
        self._unproved: list[_Outcome] = []
        self._counts: Counter[Reason] = Counter()

    def add(self, outcome: _Outcome) -> None:
        """Keep an outcome, or count it."""
        if isinstance(outcome.result, Grant) or outcome.verified:
            self._proved.append(outcome)
            return
        reason = outcome.result.reason
        self._counts[reason] += 1
        if self._counts[reason] <= _MOST_UNPROVED:
            self._unproved.append(outcome)

    def all(self) -> list[_Outcome]:
        """Give what is proved first, and last what stands for the many."""
        many = [
            _Outcome(Refusal(reason, f"{count - _MOST_UNPROVED} more of this reason"))
            for reason, count in self._counts.items()
            if count > _MOST_UNPROVED
        ]
        return [*self._proved, *self._unproved, *many]


def _decision(
    question: Question, outcome: _Outcome, begun: float, instance_id: str | None
) -> Decision:
    """Say for the journal what became of a block, naming only what is proved."""
    result, block = outcome.result, outcome.block
    refused = isinstance(result, Refusal)
    return Decision(
        granted=not refused,
        reason=result.reason if isinstance(result, Refusal) else None,
        detail=result.detail if isinstance(result, Refusal) else "",
        user=question.user,
        fingerprint=result.fingerprint,
        caller=block.caller if block and outcome.verified else None,
        request=block.request if block and outcome.verified else None,
        instance=instance_id,
        expires=block.expires if block else None,
        latency_us=round((time.monotonic() - begun) * 1_000_000),
        sshd_pid=question.sshd_pid,
    )

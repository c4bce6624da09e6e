"""What may be granted of one user's key blocks: steps 5 to 9 of docs/lookup.md."""

from dataclasses import replace

from eic_agent.errors import ConfigError, MetadataUnavailable, Reason, UntrustedMaterial
from eic_agent.lookup.clock import Clock
from eic_agent.lookup.keyblock import KeyBlock, MalformedBlock, parse_blocks
from eic_agent.lookup.memory import Memory
from eic_agent.lookup.outcomes import Outcome, Outcomes
from eic_agent.lookup.policy import Claim, Policy, Refusal, Subject, check_block, decide
from eic_agent.lookup.question import Question
from eic_agent.lookup.signers import Signers
from eic_agent.lookup.trace import Trace
from eic_agent.lookup.trust import RevokedCertificate, TrustedSigner, signed_by
from eic_agent.metadata.deadline import Deadline

_ABOUT_TIME = (Reason.EXPIRED, Reason.EXPIRES_TOO_LATE)

# Of a document's expired blocks so many are verified, to be remembered; there is never one.
_MOST_EXPIRED = 32


class Judge:
    """Decides about every block of a document; safe to use from many threads at once."""

    def __init__(self, policy: Policy, signers: Signers, clock: Clock, memory: Memory) -> None:
        self._policy = policy
        self._signers = signers
        self._clock = clock
        self._memory = memory

    def outcomes(
        self,
        document: bytes,
        question: Question,
        subject: Subject,
        instance_id: str,
        deadline: Deadline,
        trace: Trace,
    ) -> list[Outcome]:
        """Give what became of each block; `subject` is the user who is asked about.

        The signer is asked for only where a block has passed every cheaper check: a key that is
        not the one sshd asks about costs no chain and no staple. Of what is not proved nothing is
        kept, whatever a document holds. Raises MetadataUnavailable where the deadline comes first,
        and ConfigError for lack of anchors.
        """
        now = self._clock.now()
        outcomes = Outcomes()
        prover = _Prover(self._signers, instance_id, deadline, trace)
        proved: dict[bytes, Claim] = {}  # by what is signed: the same block again is no other key
        expired: list[KeyBlock] = []
        for block in parse_blocks(document):
            if not deadline.remaining():
                raise MetadataUnavailable(f"{len(document)} bytes of keys take too long to read")
            if isinstance(block, MalformedBlock):
                trace(6, Reason.MALFORMED_BLOCK.value, problem=block.problem)
                outcomes.add(Outcome(Refusal(Reason.MALFORMED_BLOCK, block.problem)))
                continue
            trace(6, "ok", expires=block.expires, instance=block.instance, key=block.key_line)
            checked = check_block(block, instance_id, question.fingerprint, self._policy.keys, now)
            if isinstance(checked, Claim):
                checked = self._prove(checked, prover, proved) or checked
            if isinstance(checked, Claim):
                continue
            checked = self._with_clock(checked)
            trace(7, checked.reason.value, key=checked.fingerprint, problem=checked.detail)
            if checked.reason is not Reason.OTHER_KEY:
                outcomes.add(Outcome(checked, block))
            if checked.reason is Reason.EXPIRED and len(expired) < _MOST_EXPIRED:
                expired.append(block)
        for block in expired:
            self._remember(block, subject.name, now)
        for claim in proved.values():
            outcomes.add(self._conclude(claim, subject, prover, trace))
        return outcomes.all()

    def _prove(self, claim: Claim, prover: "_Prover", proved: dict[bytes, Claim]) -> Refusal | None:
        """Keep a claim that is proved, or say why it is not."""
        try:
            if prover.is_genuine(claim.block):
                proved.setdefault(claim.block.signed, claim)
                return None
        except UntrustedMaterial as error:
            return Refusal(error.reason, error.detail, claim.fingerprint)
        problem = "the signature is not the signer's over these bytes"
        return Refusal(Reason.BAD_SIGNATURE, problem, claim.fingerprint)

    def _remember(self, block: KeyBlock, user: str, now: float) -> None:
        """Remember a block that came too late, lest it comes back when the clock is set back."""
        signer = self._signers.cached()
        if signer is not None and signed_by(block, signer):
            self._meet(block, user, now)

    def _meet(self, block: KeyBlock, user: str, now: float) -> str | None:
        lifetime_s = self._policy.keys.max_lifetime_s
        return self._memory.meet(block, user, now, lifetime_s, self._clock.skew_s)

    def _conclude(self, claim: Claim, subject: Subject, prover: "_Prover", trace: Trace) -> Outcome:
        """Decide about a claim that is proved; its signer may have turned out revoked since."""
        block, now = claim.block, self._clock.now()
        if prover.problem is not None:
            error = prover.problem
            return Outcome(Refusal(error.reason, error.detail, claim.fingerprint), block)
        replay = self._meet(block, subject.name, now)
        if replay is not None:
            refusal = Refusal(Reason.REPLAYED_BLOCK, replay, claim.fingerprint)
            refusal = self._with_clock(refusal)
            trace(7, refusal.reason.value, key=claim.fingerprint, problem=refusal.detail)
            return Outcome(refusal, block, verified=True)
        trace(7, "ok", key=claim.fingerprint)
        result = decide(claim, subject, self._policy, now)
        if isinstance(result, Refusal):
            result = self._with_clock(result)
            trace(8, result.reason.value, caller=block.caller, problem=result.detail)
        else:
            trace(8, "ok", caller=block.caller, request=block.request)
            trace(9, "granted", key=claim.fingerprint, line=result.line)
        return Outcome(result, block, verified=True)

    def _with_clock(self, refusal: Refusal) -> Refusal:
        """Add to a refusal about time how far this machine's clock is from metadata's."""
        if refusal.reason not in (*_ABOUT_TIME, Reason.REPLAYED_BLOCK):
            return refusal
        return replace(refusal, detail=self._clock.noted(refusal.detail))


class _Prover:
    """Says of the blocks of one document whether they are the signer's, who is asked for once.

    Every signer is tried that may have signed what is pushed now: the one that is held, the one
    before it, and where a signature is neither's, the one that metadata serves now.
    """

    def __init__(
        self, signers: Signers, instance_id: str, deadline: Deadline, trace: Trace
    ) -> None:
        self._signers = signers
        self._instance_id = instance_id
        self._deadline = deadline
        self._trace = trace
        self._known: tuple[TrustedSigner, ...] = ()
        self._asked = self._asked_again = False
        self.problem: UntrustedMaterial | None = None

    def is_genuine(self, block: KeyBlock) -> bool:
        """Whether a signer signed it. Raises UntrustedMaterial where there is none to believe."""
        if not self._asked:
            self._asked = True
            self._ask()
        if self._has_signed(block):
            return True
        if self._asked_again:
            return False
        self._asked_again = True
        self._ask_again()
        return self._has_signed(block)

    def _has_signed(self, block: KeyBlock) -> bool:
        if self.problem is not None:
            raise self.problem
        return any(signed_by(block, signer) for signer in self._known)

    def _ask(self) -> None:
        try:
            self._known = self._signers.get(self._instance_id, self._deadline, self._trace)
        except UntrustedMaterial as error:
            self._fail(error)

    def _ask_again(self) -> None:
        """Learn the signer that metadata serves now.

        A forged block is enough to come here: that another signer cannot be had or believed costs
        no block which a held one signed. Only that a held one is revoked does.
        """
        doubted = self._known[0]
        try:
            successor = self._signers.successor(
                doubted, self._instance_id, self._deadline, self._trace
            )
        except (MetadataUnavailable, UntrustedMaterial, ConfigError) as error:
            if isinstance(error, RevokedCertificate) and any(
                error.certificate in signer.path for signer in self._known
            ):
                self._fail(error)
            else:
                self._trace(5, "no other signer", problem=str(error))
        else:
            if successor is not None:
                self._known += (successor,)

    def _fail(self, error: UntrustedMaterial) -> None:
        self._trace(5, error.reason.value, problem=error.detail)
        self.problem = error

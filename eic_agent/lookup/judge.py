"""What may be granted of one user's key blocks: steps 5 to 9 of docs/lookup.md."""

from collections.abc import Callable
from dataclasses import replace

from eic_agent.errors import MetadataUnavailable, Reason, UntrustedMaterial
from eic_agent.lookup.keyblock import MalformedBlock, parse_blocks
from eic_agent.lookup.outcomes import Outcome, Outcomes
from eic_agent.lookup.policy import Claim, Policy, Refusal, Subject, check_block, decide
from eic_agent.lookup.question import Question
from eic_agent.lookup.signers import Signers
from eic_agent.lookup.trace import Trace
from eic_agent.lookup.trust import TrustedSigner, signed_by
from eic_agent.metadata.deadline import Deadline


class Judge:
    """Decides about every block of a document; safe to use from many threads at once."""

    def __init__(
        self,
        policy: Policy,
        signers: Signers,
        clock: Callable[[], float],
        clock_offset_s: Callable[[], float | None],
    ) -> None:
        """`clock_offset_s` says how far this clock is ahead of metadata's, where that is known."""
        self._policy = policy
        self._signers = signers
        self._clock = clock
        self._clock_offset_s = clock_offset_s

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
        not the one sshd asks about costs no chain and no staple. Raises MetadataUnavailable where
        the deadline comes first, and ConfigError for lack of anchors.
        """
        now = self._clock()
        outcomes = Outcomes()
        claims: list[Claim] = []
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
                claims.append(checked)
                continue
            trace(7, checked.reason.value, key=checked.fingerprint, problem=checked.detail)
            if checked.reason is not Reason.OTHER_KEY:
                outcomes.add(Outcome(self._with_clock(checked), block))
        if claims:
            for outcome in self._prove(claims, subject, instance_id, deadline, trace):
                outcomes.add(outcome)
        return outcomes.all()

    def _prove(
        self,
        claims: list[Claim],
        subject: Subject,
        instance_id: str,
        deadline: Deadline,
        trace: Trace,
    ) -> list[Outcome]:
        """Verify the signatures of claims, and apply the caller policy to what they cover."""
        try:
            signer = self._signers.get(instance_id, deadline, trace)
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
                Outcome(Refusal(error.reason, error.detail, claim.fingerprint), claim.block)
                for claim in claims
            ]
        return [
            self._conclude(claim, subject, trace, genuine=is_genuine)
            for claim, is_genuine in zip(claims, genuine, strict=True)
        ]

    def _successor(
        self, doubted: TrustedSigner, instance_id: str, deadline: Deadline, trace: Trace
    ) -> TrustedSigner | None:
        try:
            return self._signers.successor(doubted, instance_id, deadline, trace)
        except MetadataUnavailable as error:  # must not cost the keys that the doubted one signed
            trace(5, "no other signer", problem=str(error))
            return None

    def _conclude(self, claim: Claim, subject: Subject, trace: Trace, *, genuine: bool) -> Outcome:
        if not genuine:
            problem = "the signature is not the signer's over these bytes"
            trace(7, Reason.BAD_SIGNATURE.value, key=claim.fingerprint, problem=problem)
            refusal = Refusal(Reason.BAD_SIGNATURE, problem, claim.fingerprint)
            return Outcome(refusal, claim.block)
        trace(7, "ok", key=claim.fingerprint)
        result = decide(claim, subject, self._policy, self._clock())
        block = claim.block
        if isinstance(result, Refusal):
            trace(8, result.reason.value, caller=block.caller, problem=result.detail)
        else:
            trace(8, "ok", caller=block.caller, request=block.request)
            trace(9, "granted", key=claim.fingerprint, line=result.line)
        return Outcome(result, block, verified=True)

    def _with_clock(self, refusal: Refusal) -> Refusal:
        """Add to a refusal about time how far this machine's clock is from metadata's."""
        offset = self._clock_offset_s()
        if refusal.reason not in (Reason.EXPIRED, Reason.EXPIRES_TOO_LATE) or offset is None:
            return refusal
        side = "ahead of" if offset >= 0 else "behind"
        note = f"this machine's clock is {abs(offset):.0f} s {side} metadata's"
        return replace(refusal, detail=f"{refusal.detail}; {note}")

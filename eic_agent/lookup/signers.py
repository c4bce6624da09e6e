"""The signer of key blocks: fetched with its staples, proved, kept a while, replaced in time."""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cachetools import TTLCache
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from eic_agent.errors import (
    MetadataUnavailable,
    MetadataUnreachable,
    Reason,
    UntrustedMaterial,
)
from eic_agent.lookup.anchors import SHIPPED, TrustAnchors, load_anchors
from eic_agent.lookup.clock import Clock
from eic_agent.lookup.flights import Flights, Workers
from eic_agent.lookup.identity import (
    AMAZON_DOMAIN,
    InstanceIdentity,
    Partition,
    establish,
    region_of_zone,
)
from eic_agent.lookup.trace import Trace, untraced
from eic_agent.lookup.trust import (
    RevokedCertificate,
    SignerPath,
    TrustedSigner,
    TrustRules,
    build_path,
    check_revocation,
)
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline

# How often, in seconds, signatures that fail may make us fetch the signer again.
_REFETCH_INTERVAL_S = 5.0
# How long a key stays pushed, in seconds: so long what the signer before has signed is in use.
_PUSHED_FOR_S = 60.0
# Of the time that a signer holds, the part after which it is proved anew; the least in seconds.
_RENEWED_AFTER, _LEAST_PAUSE_S = 0.8, 10.0

# Metadata's word for the partition must not be enough to trust more authorities than Amazon's.
_ADVICE = (
    "the signers of this partition need not lead to Amazon's roots: if this instance is in "
    '{} ({}), and only then, write trust.anchors = "system" into '
    "/etc/eic-agent/config.d/anchors.toml"
)


@dataclass(frozen=True)
class _Wanted:
    """Whose signer is to be proved; of those who wait for it together, one is told the steps."""

    instance_id: str
    trace: Trace = field(compare=False)
    instead_of: TrustedSigner | None = field(default=None, compare=False)


class Signers:
    """Gives the signer of this instance's key blocks, proved; safe to use from many threads."""

    def __init__(
        self,
        metadata: MetadataClient,
        rules: TrustRules,
        clock: Clock,
        workers: Workers,
        bound: Callable[[], Deadline],
        timer: Callable[[], float] = time.monotonic,
        partitions: tuple[Partition, ...] = (),
    ) -> None:
        """`bound` says until when a fetch that begins now may last; `partitions` are configured."""
        self._metadata = metadata
        self._rules = rules
        self._clock = clock
        self._bound = bound
        self._timer = timer
        self._partitions = partitions
        self._flights = Flights(workers, self._fetch, "the signer")
        self._lock = threading.Lock()
        self._identity: InstanceIdentity | None = None
        # The newest signer and the one before it, by the hash of their certificates.
        self._cache: TTLCache[bytes, TrustedSigner] = TTLCache(2, rules.max_cache_s, timer)
        self._refetched = self._renew_at = float("-inf")
        self.fetches = 0

    def get(self, instance_id: str, deadline: Deadline, trace: Trace) -> tuple[TrustedSigner, ...]:
        """Give the signers that are held, or fetch and prove the one that metadata serves (step 5).

        The newest comes first; the one before it has signed what may still be pushed. Raises
        UntrustedMaterial, MetadataUnavailable, or ConfigError for lack of anchors.
        """
        held = self._held()
        if not held:
            return (self._flights.get(_Wanted(instance_id, trace), deadline.remaining()),)
        for signer in held:
            trace(
                5,
                "ok",
                signer=signer.name,
                source="verified before",
                holds_until=signer.valid_until,
            )
        return held

    def successor(
        self, doubted: TrustedSigner, instance_id: str, deadline: Deadline, trace: Trace
    ) -> TrustedSigner | None:
        """Give another signer than the doubted one, under which a signature failed.

        Signers rotate: one is fetched anew, at a limited rate, and the doubted one is held until
        another is proved. None where the rate does not allow it, or the signer is still the same.
        """
        signer = self.cached()
        if signer is None or signer is doubted:
            with self._lock:
                now = self._timer()
                if now - self._refetched < _REFETCH_INTERVAL_S:
                    return None
                self._refetched = now
            wanted = _Wanted(instance_id, trace, doubted)
            signer = self._flights.get(wanted, deadline.remaining())
        return None if signer.public_key == doubted.public_key else signer

    def prove_ahead(self, instance_id: str, deadline: Deadline) -> float:
        """Have a signer proved before anybody asks; give the seconds after which to call again.

        One that holds is proved anew once four fifths of its time are over, and stays in force
        until its successor is proved. Raises as `get` does.
        """
        signer = self.cached()
        if signer is None or self._timer() >= self._renew_at:
            self._flights.get(_Wanted(instance_id, untraced, signer), deadline.remaining())
        return max(self._renew_at - self._timer(), _LEAST_PAUSE_S)

    @property
    def keeps(self) -> bool:
        """Whether a signer is kept at all; where none is, each lookup proves it."""
        return self._rules.max_cache_s > 0

    def cached(self) -> TrustedSigner | None:
        """Give the newest signer that holds, by the clock and by the time since it was proved."""
        return next(iter(self._held()), None)

    def _held(self) -> tuple[TrustedSigner, ...]:
        with self._lock:
            signers = [*self._cache.values()]
        now = self._clock.now()
        return tuple(signer for signer in reversed(signers) if now < signer.valid_until)

    def _fetch(self, wanted: _Wanted) -> TrustedSigner:
        signer = self.cached()
        if signer is not None and signer is not wanted.instead_of:
            return signer  # proved while we waited for our turn
        deadline = self._bound()
        try:
            identity = self._establish(wanted.instance_id, deadline)
            signer = self._prove(identity, deadline, wanted.trace)
        except RevokedCertificate as error:
            self._drop(error.certificate)
            raise
        except UntrustedMaterial as error:
            if not error.about_time:
                raise
            raise UntrustedMaterial(error.reason, self._clock.noted(error.detail)) from None
        name = hashlib.sha256(signer.path[0].public_bytes(Encoding.DER)).digest()
        now = self._clock.now()
        with self._lock:
            self.fetches += 1
            self._identity = identity
            self._cache.pop(name, None)
            for before, old in [*self._cache.items()]:
                until = min(old.valid_until, now + _PUSHED_FOR_S)
                self._cache[before] = replace(old, valid_until=until)
            self._cache[name] = signer
            holds_s = signer.valid_until - now
            self._renew_at = self._timer() + _RENEWED_AFTER * holds_s
        return signer

    def _drop(self, certificate: x509.Certificate) -> None:
        """Hold no signer any longer whose path has this certificate, which is revoked."""
        with self._lock:
            for name, signer in [*self._cache.items()]:
                if certificate in signer.path:
                    del self._cache[name]

    def _prove(self, identity: InstanceIdentity, deadline: Deadline, trace: Trace) -> TrustedSigner:
        """Fetch the signer's chain and staples, and believe it or raise."""
        name = identity.signer_name
        anchors = load_anchors(self._rules.anchors)
        trace(
            5,
            "expects",
            signer=name,
            region=identity.region,
            domain=identity.domain,
            partition=identity.partition.name,
            anchors=f"{anchors.source} ({len(anchors.certificates)} certificates)",
            skipped=anchors.skipped,
        )
        path = self._build_path(self._metadata.signer_chain(deadline), identity, anchors)
        trace(5, "path", certificates=[c.subject.rfc4514_string() for c in path.certificates])
        names = [n for n in self._metadata.staple_names(deadline) if path.needs_staple(n)]
        staples, missing = self._staples(names, deadline)
        trace(5, "staples", names=names, missing=[str(error) for error in missing])
        # One that cannot be had may have said anything, so without it nothing is taken on trust.
        rules = replace(self._rules, revocation="require") if missing else self._rules
        now, skew_s = self._clock.now(), self._clock.skew_s
        try:
            signer = check_revocation(path, staples, name, rules, now, skew_s)
        except UntrustedMaterial as error:
            if missing and error.reason is Reason.NO_VALID_STAPLE:
                raise missing[0] from None
            raise
        trace(5, "ok", signer=name, source="verified now", holds_until=signer.valid_until)
        return signer

    def _staples(
        self, names: list[str], deadline: Deadline
    ) -> tuple[dict[str, bytes], list[MetadataUnavailable | UntrustedMaterial]]:
        """Fetch every staple that is to be had, and say what became of the others.

        Names prove nothing, so whether one of these is needed is seen when all others are judged.
        Raises MetadataUnreachable where the service does not answer.
        """
        staples: dict[str, bytes] = {}
        missing: list[MetadataUnavailable | UntrustedMaterial] = []
        for name in names:
            try:
                staples[name] = self._metadata.staple(name, deadline)
            except MetadataUnreachable:
                raise
            except (MetadataUnavailable, UntrustedMaterial) as error:
                missing.append(error)
        return staples, missing

    def _build_path(
        self, chain: bytes, identity: InstanceIdentity, anchors: TrustAnchors
    ) -> SignerPath:
        name, now, skew_s = identity.signer_name, self._clock.now(), self._clock.skew_s
        try:
            return build_path(chain, name, anchors, now, skew_s)
        except UntrustedMaterial as error:
            if (
                error.reason is not Reason.UNTRUSTED_CHAIN
                or self._rules.anchors not in SHIPPED
                or identity.domain == AMAZON_DOMAIN
            ):
                raise
            advice = _ADVICE.format(identity.region, identity.partition.name)
            raise UntrustedMaterial(
                error.reason, f"{error.detail}; {advice}", about_time=error.about_time
            ) from None

    def _establish(self, instance_id: str, deadline: Deadline) -> InstanceIdentity:
        """Learn region and domain, which an instance cannot change while it runs.

        They are kept only once a signer of theirs was proved: else who spoofs metadata for a moment
        would make us look for the wrong signer for ever.
        """
        with self._lock:
            identity = self._identity
        if identity is None:
            region = self._metadata.region(deadline)
            if region is None:  # metadata older than placement/region
                region = region_of_zone(self._metadata.availability_zone(deadline))
            domain = self._metadata.domain(deadline)
            identity = establish(instance_id, region, domain, self._partitions)
        return identity

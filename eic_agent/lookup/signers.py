"""The signer of key blocks: fetched with its staples, proved, kept a while, replaced in time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachetools import TTLCache

from eic_agent.errors import Reason, UntrustedMaterial
from eic_agent.lookup.anchors import SHIPPED, TrustAnchors, load_anchors
from eic_agent.lookup.flights import Flights, Workers
from eic_agent.lookup.identity import (
    AMAZON_DOMAIN,
    InstanceIdentity,
    Partition,
    establish,
    region_of_zone,
)
from eic_agent.lookup.trace import Trace
from eic_agent.lookup.trust import (
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


class Signers:
    """Gives the signer of this instance's key blocks, proved; safe to use from many threads."""

    def __init__(
        self,
        metadata: MetadataClient,
        rules: TrustRules,
        clock: Callable[[], float],
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
        self._cache: TTLCache[str, TrustedSigner] = TTLCache(1, rules.max_cache_s, timer)
        self._refetched = float("-inf")
        self.fetches = 0

    def get(self, instance_id: str, deadline: Deadline, trace: Trace) -> TrustedSigner:
        """Give the cached signer, or fetch and prove one (step 5).

        Raises UntrustedMaterial, MetadataUnavailable, or ConfigError for lack of anchors.
        """
        signer = self.cached()
        if signer is not None:
            trace(
                5,
                "ok",
                signer=signer.name,
                source="verified before",
                holds_until=signer.valid_until,
            )
            return signer
        return self._flights.get(_Wanted(instance_id, trace), deadline.remaining())

    def successor(
        self, doubted: TrustedSigner, instance_id: str, deadline: Deadline, trace: Trace
    ) -> TrustedSigner | None:
        """Give another signer than the doubted one, under which a signature failed.

        Signers rotate: the doubted one is forgotten and one fetched anew, at a limited rate. None
        where the rate does not allow it, or the signer is still the same.
        """
        with self._lock:
            if self._cache.get("signer") is doubted:
                now = self._timer()
                if now - self._refetched < _REFETCH_INTERVAL_S:
                    return None
                self._refetched = now
                del self._cache["signer"]
        signer = self.get(instance_id, deadline, trace)
        return None if signer.public_key == doubted.public_key else signer

    def cached(self) -> TrustedSigner | None:
        """Give the signer while it holds, by the clock and by the time since it was proved."""
        with self._lock:
            signer = self._cache.get("signer")
        return signer if signer is not None and self._clock() < signer.valid_until else None

    def _fetch(self, wanted: _Wanted) -> TrustedSigner:
        trace = wanted.trace
        signer = self.cached()
        if signer is not None:  # proved while we waited for our turn
            return signer
        deadline = self._bound()
        identity = self._establish(wanted.instance_id, deadline)
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
        staples = {n: self._metadata.staple(n, deadline) for n in names}
        trace(5, "staples", names=names)
        signer = check_revocation(path, staples, name, self._rules, self._clock())
        trace(5, "ok", signer=name, source="verified now", holds_until=signer.valid_until)
        with self._lock:
            self.fetches += 1
            self._identity = identity
            self._cache["signer"] = signer
        return signer

    def _build_path(
        self, chain: bytes, identity: InstanceIdentity, anchors: TrustAnchors
    ) -> SignerPath:
        try:
            return build_path(chain, identity.signer_name, anchors, self._clock())
        except UntrustedMaterial as error:
            if (
                error.reason is not Reason.UNTRUSTED_CHAIN
                or self._rules.anchors not in SHIPPED
                or identity.domain == AMAZON_DOMAIN
            ):
                raise
            raise UntrustedMaterial(
                error.reason,
                f"{error.detail}; {_ADVICE.format(identity.region, identity.partition.name)}",
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

"""What must not be forgotten while the agent runs, so that nothing of the past comes back.

Time is link-local as metadata is: who answers in the place of the one can answer in the place of
NTP, set the clock back, and serve a push of yesterday. The clock of the boot (CLOCK_BOOTTIME, which
goes on while the machine sleeps) nobody can set.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from eic_agent.lookup.keyblock import KeyBlock


def boottime() -> float:
    """Seconds since the machine started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Seen:
    """A block: for whom it was served, when first and until when it holds, by the boot clock."""

    user: str
    first: float
    ends: float
    expires: int
    other_user: str | None = None


class Memory:
    """The latest time, and every proved block that has not expired for certain; thread-safe.

    One for the life of the process: it outlives a configuration. It holds no more than the signer
    has signed for this instance in the last minutes, since forged blocks are not remembered.
    """

    def __init__(self, timer: Callable[[], float] = boottime) -> None:
        self._timer = timer
        self._lock = threading.Lock()
        self._latest = float("-inf")
        self._boot_began = float("-inf")  # at the earliest, by what the signer has signed
        self._forgotten = float("-inf")  # no block is remembered that expires earlier
        self._seen: dict[bytes, _Seen] = {}

    @property
    def blocks(self) -> int:
        """How many blocks are remembered."""
        return len(self._seen)

    def believe(self, wall: float, skew_s: float) -> float:
        """Give the time to go by: the wall clock's, unless that is set back by more than the skew.

        A clock that was ahead, and is set right, is believed again when it has caught up.
        """
        with self._lock:
            self._latest = max(self._latest, wall)
            return max(wall, self._earliest(skew_s))

    def _earliest(self, skew_s: float) -> float:
        by_clocks = max(self._latest, self._boot_began + self._timer()) - skew_s
        return max(by_clocks, self._forgotten)  # also where the skew is configured larger by now

    def meet(
        self, block: KeyBlock, user: str, now: float, max_lifetime_s: float, skew_s: float
    ) -> str | None:
        """Remember a block whose signature is verified; say what is wrong where it is a replay.

        It holds for what is left of its life when it is first seen, and for `max_lifetime_s` (0: no
        limit) at most, whatever the wall clock says later. Served for two users it is an attack,
        and is good for neither from then on.
        """
        digest = hashlib.sha256(block.signed).digest()
        with self._lock:
            boot = self._timer()
            seen = self._seen.get(digest)
            if seen is None:
                life = block.expires - now
                if max_lifetime_s:
                    life = min(life, max_lifetime_s)
                    # Signed no longer than that before it expires: so it is at least so late now.
                    signed = block.expires - max_lifetime_s
                    self._boot_began = max(self._boot_began, signed - boot)
                self._forget_expired(skew_s)
                self._seen[digest] = _Seen(user, boot, boot + life, block.expires)
                return None
            if seen.user != user and seen.other_user is None:
                seen.other_user = user
            if seen.other_user is not None:
                return (
                    "an attack: metadata serves one push for two users, "
                    f"{seen.user!r} and {seen.other_user!r}"
                )
            if boot >= seen.ends:
                return (
                    f"first seen {boot - seen.first:.0f} s ago, by the clock of this boot, "
                    f"with {max(0.0, seen.ends - seen.first):.0f} s to live"
                )
            return None

    def _forget_expired(self, skew_s: float) -> None:
        """Drop the blocks that no time which will be believed makes good again."""
        earliest = self._earliest(skew_s)
        kept = {digest: s for digest, s in self._seen.items() if s.expires > earliest}
        if len(kept) < len(self._seen):
            self._seen, self._forgotten = kept, earliest

"""How many refusals are written: whoever makes many must not bury the others, or fill the disk."""

import threading
from collections import Counter
from collections.abc import Callable

from eic_agent.errors import Reason

# A bucket of so many entries, which fills by so many a second: above what an attended machine has,
# far below what would reach a limit of journald's.
BURST = 200
PER_SECOND = 20.0

REPORT_EVERY_S = 10.0


class Refusals:
    """Lets refusals through at a bounded rate, over all lookups; counts the others by reason."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._room, self._filled_at = float(BURST), clock()
        self._dropped: Counter[str] = Counter()
        self._report_at = 0.0  # the next report is due then, if anything was dropped

    def admit(self) -> bool:
        """Say whether one more may be written."""
        with self._lock:
            now = self._clock()
            passed = max(now - self._filled_at, 0)
            self._room, self._filled_at = min(self._room + passed * PER_SECOND, BURST), now
            if self._room < 1:
                return False
            self._room -= 1
            return True

    def drop(self, reason: Reason | None) -> None:
        """Count one that was not written."""
        with self._lock:
            if not self._dropped:
                self._report_at = self._clock() + REPORT_EVERY_S
            self._dropped[reason.value if reason else "unknown"] += 1

    def due_in(self) -> float | None:
        """Give the seconds until a report is due; None where nothing was dropped."""
        with self._lock:
            return max(self._report_at - self._clock(), 0) if self._dropped else None

    def take(self) -> Counter[str]:
        """Give what was dropped since the last call, by reason."""
        with self._lock:
            dropped, self._dropped = self._dropped, Counter()
            return dropped

"""How many calls a principal may make: a bucket of tokens for each, as AWS's APIs have."""

import threading
from collections.abc import Callable


class Throttle:
    """Lets `burst` calls through at once and `rate_per_s` in the long run. Thread-safe."""

    def __init__(self, rate_per_s: float, burst: int, monotonic: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def admits(self, name: str) -> bool:
        """Whether one more call of this name may be made now; it then counts."""
        with self._lock:
            now = self._monotonic()
            tokens, before = self._buckets.get(name, (float(self._burst), now))
            tokens = min(float(self._burst), tokens + (now - before) * self._rate_per_s)
            admitted = tokens >= 1.0
            self._buckets[name] = (tokens - 1.0 if admitted else tokens, now)
            return admitted

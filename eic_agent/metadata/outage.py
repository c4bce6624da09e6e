"""Failing fast while the metadata service does not answer."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata.deadline import Deadline

# Failures that take less, such as a refused connection, need not be spared anybody.
_SLOW_S = 0.1


class Outage:
    """Makes calls fail at once while the service is unreachable, but for one probe at a time.

    It begins with a call that ends in MetadataUnreachable, and ends with the first answer of any
    kind or `window_s` after the last failure. The first probe may leave at once, since one packet
    lost is no outage; one that fails is followed by a pause as long as it took to fail, if that
    was long enough for anybody to mind.
    """

    def __init__(self, window_s: float, monotonic: Callable[[], float]) -> None:
        self._window_s = window_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answered_at = float("-inf")
        self._failed_at: float | None = None
        self._pause_s = 0.0
        self._probing = False

    @contextlib.contextmanager
    def attempt(self, deadline: Deadline) -> Iterator[None]:
        """Hold what calls the service. Raises MetadataUnavailable instead where it may not."""
        begun = self._monotonic()
        is_probe = self._admit(begun)
        try:
            yield
        except MetadataUnavailable as error:
            # A caller in a hurry learns nothing about the service.
            if deadline.remaining():
                self._learn(begun, answered=not isinstance(error, MetadataUnreachable))
            raise
        else:
            self._learn(begun, answered=True)
        finally:
            if is_probe:
                with self._lock:
                    self._probing = False

    def _admit(self, now: float) -> bool:
        """Tell whether this call is the probe; where there is no outage, none is."""
        with self._lock:
            if self._failed_at is None or now - self._failed_at >= self._window_s:
                self._failed_at = None
                return False
            since_s = now - self._failed_at
            if self._probing or since_s < self._pause_s:
                raise MetadataUnavailable(
                    f"the metadata service was unreachable {since_s:.1f} s ago; not asked again yet"
                )
            self._probing = True
            return True

    def _learn(self, begun: float, *, answered: bool) -> None:
        with self._lock:
            now = self._monotonic()
            if answered:
                self._answered_at, self._failed_at = now, None
            elif begun >= self._answered_at:  # nobody has been answered since this call began
                if self._failed_at is None:
                    self._pause_s = 0.0
                elif begun >= self._failed_at:  # else the two failed side by side
                    took_s = now - begun
                    self._pause_s = took_s if took_s >= _SLOW_S else 0.0
                self._failed_at = now

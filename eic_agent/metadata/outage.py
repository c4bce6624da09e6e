"""Failing fast while the metadata service does not answer."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata.deadline import Deadline

# Pauses for which an outage is remembered when nobody asks.
_REMEMBERED = 5


class Outage:
    """Makes calls fail at once while the service is unreachable, but for one probe at a time.

    It begins with a call that tried again and again and still ended in MetadataUnreachable. Each
    such call is followed by a pause in which nobody asks; after it, one call at a time may. It ends
    with the first answer of any kind, or when nobody has asked for a while.
    """

    def __init__(self, pause_s: float, monotonic: Callable[[], float]) -> None:
        """`pause_s` is also the least time without an answer that says something."""
        self._pause_s = pause_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answered_at = float("-inf")
        self._failed_at: float | None = None
        self._probing = False

    @contextlib.contextmanager
    def attempt(self, deadline: Deadline) -> Iterator[None]:
        """Hold what calls the service. Raises MetadataUnavailable instead where it may not."""
        begun = self._monotonic()
        is_probe = self._admit(begun)
        try:
            yield
        except MetadataUnreachable:
            # A caller who was in a hurry learned nothing about the service.
            if deadline.remaining() or self._monotonic() - begun >= self._pause_s:
                self._failed(begun)
            raise
        except MetadataUnavailable:
            if deadline.remaining():
                self._answered()
            raise
        else:
            self._answered()
        finally:
            if is_probe:
                with self._lock:
                    self._probing = False

    def _admit(self, now: float) -> bool:
        """Tell whether this call is the probe; where there is no outage, none is."""
        with self._lock:
            since_s = float("inf") if self._failed_at is None else now - self._failed_at
            if since_s >= _REMEMBERED * self._pause_s:
                return False
            if self._probing or since_s < self._pause_s:
                raise MetadataUnavailable(
                    f"the metadata service was unreachable {since_s:.1f} s ago; not asked again yet"
                )
            self._probing = True
            return True

    def _answered(self) -> None:
        with self._lock:
            self._answered_at, self._failed_at = self._monotonic(), None

    def _failed(self, begun: float) -> None:
        with self._lock:
            if begun >= self._answered_at:  # else somebody has been answered since
                self._failed_at = self._monotonic()

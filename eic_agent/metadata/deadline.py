"""A moment by which something must be over, handed from caller to callee."""

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which something must be over."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Give the moment so many seconds from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Give the seconds left, never less than 0."""
        return max(0.0, self.at - time.monotonic())

    def at_most(self, seconds: float) -> "Deadline":
        """Give the earlier of this moment and the one so many seconds from now."""
        return Deadline(min(self.at, time.monotonic() + seconds))


NEVER = Deadline(math.inf)

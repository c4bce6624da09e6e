"""What the agent does before anybody asks: it proves the signer, and proves it anew in time.

So the first login after a boot costs what every other one does, one metadata request. It waits for
nothing: where metadata is not there it tries again, less and less often; where this is no EC2
instance it leaves it at that.
"""

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable

from eic_agent.errors import ConfigError, MetadataUnavailable, Reason, UntrustedMaterial
from eic_agent.journal.writer import Journal
from eic_agent.lookup.authorizer import Authorizer
from eic_agent.metadata.deadline import Deadline

# Seconds until it is tried again: twice as long each time. The network of a machine that boots is
# there after some seconds; one without metadata is asked 12 times an hour at most.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0


class Upkeep:
    """Prepares one configuration's authorizer; called by one thread at a time."""

    def __init__(self, authorizer: Authorizer, journal: Journal, deadline_s: float) -> None:
        self._authorizer = authorizer
        self._journal = journal
        self._deadline_s = deadline_s
        self._pause_s = _FIRST_PAUSE_S

    def __call__(self) -> float:
        """Prepare what the next lookup needs; give the seconds after which to do it again."""
        try:
            holds_s = self._authorizer.prepare(Deadline.after(self._deadline_s))
        except (ConfigError, MetadataUnavailable) as error:
            self._journal.debug(f"nothing can be prepared yet: {error}")
        except UntrustedMaterial as error:
            if error.reason is Reason.NOT_EC2:
                self._journal.info(f"nothing is prepared: {error}")
                return math.inf
            self._journal.problem(error.reason, f"nothing can be prepared: {error.detail}")
        else:
            self._pause_s = _FIRST_PAUSE_S
            return holds_s
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return pause_s


class Timer:
    """Runs an upkeep when it is due, in a thread that ends with it; used by the service's loop."""

    def __init__(self, wake: socket.socket) -> None:
        """Send a byte into `wake` where another moment counts from now on."""
        self._wake = wake
        self._upkeep: Callable[[], float] | None = None
        self.due_at = math.inf  # on the monotonic clock

    def take(self, upkeep: Callable[[], float] | None) -> None:
        """Have this one run from now on; it is due at once."""
        self._upkeep = upkeep
        self.due_at = math.inf if upkeep is None else time.monotonic()

    def run(self) -> None:
        """Run it now, beside the loop."""
        upkeep, self.due_at = self._upkeep, math.inf
        if upkeep is not None:
            thread = threading.Thread(target=self._run, args=(upkeep,), name="upkeep", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread to be had: lookups come first
                thread.start()

    def _run(self, upkeep: Callable[[], float]) -> None:
        pause_s = upkeep()
        if upkeep is self._upkeep:  # else another configuration has been taken up meanwhile
            self.due_at = time.monotonic() + pause_s
            with contextlib.suppress(OSError):
                self._wake.send(b"\0")

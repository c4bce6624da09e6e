"""The configuration in force: when it is read again, and what is said where it is invalid.

What the files say is what holds, be it valid or not. An invalid one stays in force until a reload,
or until a request finds it mended.
"""

import math
import time
from collections.abc import Callable

from eic_agent.errors import Reason
from eic_agent.journal.writer import Journal
from eic_agent.resident.limits import Handlers
from eic_agent.resident.upkeep import Timer

_MEND_EVERY_S = 1.0


class ActiveConfiguration:
    """Holds the handlers that answer now, and the former ones while they may still be at work.

    Changed by the loop only; `handlers` may be read in any thread.
    """

    def __init__(
        self,
        load: Callable[[], Handlers],
        handlers: Handlers,
        journal: Journal,
        upkeep: Timer,
        stuck_s: float,
    ) -> None:
        """`load` reads the configuration again, be it valid or not.

        A lookup is over `stuck_s` seconds after its deadline, or the watchdog bites.
        """
        self.handlers = handlers
        self._load = load
        self._journal = journal
        self._upkeep = upkeep
        self._stuck_s = stuck_s
        self._retired: list[tuple[float, Callable[[], None]]] = []  # in order of when
        self._mend_at = time.monotonic() + _MEND_EVERY_S  # when an invalid configuration is read

    def start(self) -> None:
        """Say what is wrong with the first configuration, and have it prepare what it can."""
        if self.handlers.invalid:
            self._report_invalid()
        self._upkeep.take(self.handlers.upkeep)

    def reload(self) -> None:
        """Read the configuration again."""
        self._take(self._load())

    def mend(self) -> None:
        """Read an invalid configuration again, now and then: nobody need reload what is mended."""
        if not self.handlers.invalid or time.monotonic() < self._mend_at:
            return
        self._mend_at = time.monotonic() + _MEND_EVERY_S
        handlers = self._load()
        if handlers.invalid != self.handlers.invalid:
            self._take(handlers)

    @property
    def retires_at(self) -> float:
        """When former handlers are closed next, on the monotonic clock; infinity: never."""
        return self._retired[0][0] if self._retired else math.inf

    def retire(self, now: float) -> None:
        """Close the former handlers that nothing is answered by any more."""
        while now >= self.retires_at:
            self._retired.pop(0)[1]()

    def close(self) -> None:
        """Close all handlers."""
        for close in (*(close for _, close in self._retired), self.handlers.close):
            close()

    def _take(self, handlers: Handlers) -> None:
        """Let these answer from now on, valid or not: what the files say is what holds."""
        before, self.handlers = self.handlers, handlers
        self._upkeep.take(handlers.upkeep)
        # What is being answered by the former handlers has ended by then.
        ends = time.monotonic() + before.deadline_s + self._stuck_s
        self._retired.append((ends, before.close))
        self._mend_at = time.monotonic() + _MEND_EVERY_S
        if handlers.invalid:
            self._report_invalid()
        else:
            self._journal.info("the configuration was read again")

    def _report_invalid(self) -> None:
        problem = f"{self.handlers.invalid}\nuntil this is mended, no pushed key is granted"
        self._journal.problem(Reason.INVALID_CONFIG, problem, always=True)

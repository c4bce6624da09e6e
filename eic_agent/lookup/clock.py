"""The time that a lookup goes by, and what people are told where it may be wrong."""

from collections.abc import Callable

from eic_agent.lookup.memory import Memory


class Clock:
    """The machine's wall clock as far as it is believed; seconds since the epoch."""

    def __init__(
        self,
        wall: Callable[[], float],
        memory: Memory,
        skew_s: float,
        offset_s: Callable[[], float | None],
    ) -> None:
        """`skew_s`: how slow the clock may be; `offset_s`: how far ahead of metadata's it is."""
        self._wall = wall
        self._memory = memory
        self.skew_s = skew_s
        self._offset_s = offset_s

    def now(self) -> float:
        """Give the time, which never goes back by more than the skew."""
        return self._memory.believe(self._wall(), self.skew_s)

    def noted(self, detail: str) -> str:
        """Add to what is said of a time how far this clock is from metadata's."""
        notes = [detail]
        offset_s = self._offset_s()
        if offset_s is not None:
            side = "ahead of" if offset_s >= 0 else "behind"
            notes.append(f"this machine's clock is {abs(offset_s):.0f} s {side} metadata's")
        wall = self._wall()
        back_s = self._memory.believe(wall, self.skew_s) - wall
        if back_s > 0:
            notes.append(
                f"it was set back, and {back_s:.0f} s more than it shows are believed "
                "until it has caught up or eic-agent is restarted"
            )
        return "; ".join(notes)

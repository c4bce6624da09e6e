"""Writes entries to journald, or to stderr where there is no journal.

Writing never waits: where journald's queue is full the entry is counted as lost.
"""

import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from eic_agent.errors import Reason
from eic_agent.journal.entries import (
    DEBUG,
    INFO,
    MESSAGE_ID_PROBLEM,
    WARNING,
    Decision,
    Fields,
    entry,
)
from eic_agent.journal.outputs import JournaldOutput, Output, StderrOutput

JOURNALD_SOCKET = Path("/run/systemd/journal/socket")

# Names of the configuration's, with the least severe priority that each lets through.
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": WARNING - 1}

_REPEAT_INTERVAL_S = 10.0


class Journal:
    """Writes entries; made by `open_journal`. Thread-safe.

    The level holds back what `problem`, `info` and `debug` write. Decisions are the audit trail
    and are written at any level.
    """

    def __init__(self, output: Output, level: str, clock: Callable[[], float]) -> None:
        self._output = output
        self._level = LEVELS[level]
        self._clock = clock
        self._lock = threading.Lock()
        self._repeats: dict[Reason, _Repeats] = {}
        self._lost = self._lost_reported = 0

    @property
    def on_stderr(self) -> bool:
        """Whether entries are lines on stderr, for lack of a journal."""
        return isinstance(self._output, StderrOutput)

    @property
    def lost(self) -> int:
        """Entries that could not be written since the journal was opened."""
        return self._lost

    def set_level(self, level: str) -> None:
        """Change the level, as a configuration that was read again may want."""
        self._level = LEVELS[level]

    def decision(self, decision: Decision) -> None:
        """Write the one entry for a decision about a key."""
        self._write(decision.entry())

    def problem(self, reason: Reason, detail: str, *, always: bool = False, **fields: str) -> None:
        """Write why nothing could be decided, as a warning; each of `fields` becomes EIC_<NAME>.

        Of one reason, one entry in ten seconds is written unless it is `always` to be; the next
        one, or `close`, says how many were held back. Lines of `detail` are joined to one.
        """
        if always:
            self._write_problem(reason, detail, 0, fields)
            return
        with self._lock:
            now = self._clock()
            repeats = self._repeats.get(reason)
            if repeats and now - repeats.written_at < _REPEAT_INTERVAL_S:
                repeats.held_back += 1
                return
            self._repeats[reason] = _Repeats(now)
        self._write_problem(reason, detail, repeats.held_back if repeats else 0, fields)

    def _write_problem(
        self, reason: Reason, detail: str, held_back: int, fields: dict[str, str]
    ) -> None:
        message = f"{reason.value}: {'; '.join(detail.splitlines())}"
        if held_back:
            message += f" ({held_back} more of this reason were not written before)"
        self._say(
            message,
            WARNING,
            MESSAGE_ID_PROBLEM,
            reason=reason.value,
            held_back=held_back or None,
            **fields,
        )

    def info(self, text: str) -> None:
        """Write something worth knowing in normal operation."""
        self._say(text, INFO)

    def debug(self, text: str) -> None:
        """Write something that only helps to find a fault."""
        self._say(text, DEBUG)

    def _say(
        self, message: str, priority: int, message_id: str | None = None, **own: str | int | None
    ) -> None:
        if priority <= self._level:
            self._write(entry(message, priority, message_id, **own))

    def _write(self, fields: Fields) -> None:
        if not self._output.deliver(fields):
            with self._lock:
                self._lost += 1
            return
        lost = self._lost
        if lost != self._lost_reported and self._output.deliver(_lost_report(lost)):
            self._lost_reported = lost

    def close(self) -> None:
        """Write what `problem` still owes and let go of the socket."""
        with self._lock:
            owed = [(reason, r.held_back) for reason, r in self._repeats.items() if r.held_back]
            self._repeats.clear()
        for reason, held_back in owed:
            self._write_problem(reason, "held back until this process ended", held_back, {})
        self._output.close()


@dataclass(slots=True)
class _Repeats:
    """When a reason was last written (monotonic), and how often it was held back since."""

    written_at: float
    held_back: int = 0


def _lost_report(lost: int) -> Fields:
    message = f"{lost} entries were lost since this process began"
    return entry(message, WARNING, MESSAGE_ID_PROBLEM, lost=lost)


def open_journal(
    level: str = "info",
    *,
    socket_path: Path = JOURNALD_SOCKET,
    stderr: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Journal:
    """Make a Journal that writes to journald where its socket is there now, else to stderr."""
    lines = StderrOutput(stderr or sys.stderr)
    output = JournaldOutput(socket_path, lines) if _is_socket(socket_path) else lines
    return Journal(output, level, clock)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False

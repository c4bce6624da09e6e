"""Writes entries to journald, or to stderr where there is no journal.

Only the entry of a grant waits for journald, as long as its lookup can. Of all others, those about
decisions are kept in memory for a while where journald's queue is full, and the rest is lost, and
counted.
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
from eic_agent.journal.kept import Kept
from eic_agent.journal.outputs import JournaldOutput, Output, StderrOutput
from eic_agent.journal.refusals import Refusals

JOURNALD_SOCKET = Path("/run/systemd/journal/socket")

# Names of the configuration's, with the least severe priority that each lets through.
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": WARNING - 1}

CLOSE_S = 2.0  # for the journal to take what it did not take before

_REPEAT_INTERVAL_S = 10.0
_MOST_KEPT = 64  # entries of refusals, and of anything else that is no grant


class Journal:
    """Writes entries; made by `open_journal`. Thread-safe.

    The level holds back what `problem`, `info` and `debug` write. Decisions are the audit trail
    and are written at any level: grants before anybody is told of them, refusals as many as a
    person could read.
    """

    def __init__(
        self,
        output: Output,
        lines: StderrOutput,
        level: str,
        clock: Callable[[], float],
        *,
        believed: bool,
    ) -> None:
        self._output = output
        self._lines = lines
        self._level = LEVELS[level]
        self._clock = clock
        self._lock = threading.Lock()
        self._repeats: dict[Reason, _Repeats] = {}
        self._lost = self._lost_reported = 0
        self._believed = believed
        self._kept = Kept(output)
        self._refusals = Refusals(clock)

    @property
    def on_stderr(self) -> bool:
        """Whether entries are lines on stderr, for lack of a journal."""
        return self._output is self._lines

    @property
    def lost(self) -> int:
        """Entries that could not be written since the journal was opened; never a grant's."""
        return self._lost

    @property
    def waiting(self) -> int:
        """Entries that journald did not take yet."""
        return len(self._kept)

    def set_level(self, level: str) -> None:
        """Change the level, as a configuration that was read again may want."""
        self._level = LEVELS[level]

    def grant(self, decision: Decision, within_s: float, *, required: bool) -> bool:
        """Write the entry of a key that is about to be granted; False where it must not be.

        Waits for journald as long as `within_s` says. An entry that it does not take by then is
        kept and written late, unless it is `required` first: only what journald has then counts.
        """
        if required and (self.on_stderr or not self._believed):
            return False
        fields = decision.entry()
        try:
            written = self._output.deliver(fields, within_s)
        except OSError:
            written = False
        if written or required:
            return written
        fields["EIC_DECIDED_AT"] = f"{decision.decided_at:.6f}"
        return self._kept.add(decision.same, decision.client_uid, fields)

    def refusal(self, decision: Decision) -> None:
        """Write the entry of a key that is refused, if there were not too many of late."""
        fields, at = decision.entry(), decision.decided_at
        if not self._refusals.admit() or not self._write_or_keep(fields, "refusals", at):
            self._refusals.drop(decision.reason)
        self.tick()

    def undelivered(self, decision: Decision) -> None:
        """Write that a key was granted, but not taken by sshd's client."""
        fields = decision.undelivered_entry()
        if not self._write_or_keep(fields, "undelivered", decision.decided_at):
            self._lose()

    def _write_or_keep(self, fields: Fields, owner: str, decided_at: float) -> bool:
        try:
            if self._output.deliver(fields):
                return True
        except OSError:
            return self._lines.deliver(fields)
        fields["EIC_DECIDED_AT"] = f"{decided_at:.6f}"
        return self._kept.add(object(), owner, fields, _MOST_KEPT)

    def due_in(self) -> float | None:
        """Give the seconds until `tick` has something to do; None while there is nothing."""
        return self._refusals.due_in()

    def tick(self) -> None:
        """Write how many refusals were left out, if any were and it is time to say so."""
        if self._refusals.due_in() == 0:
            self._report_refusals()

    def _report_refusals(self) -> None:
        dropped = self._refusals.take()
        if not dropped:
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common())
        count = dropped.total()
        message = f"{count} refusals have no entry of their own, there were too many: {reasons}"
        fields = entry(message, WARNING, MESSAGE_ID_PROBLEM, dropped=count, dropped_reasons=reasons)
        if self._deliver(fields):
            return
        if not self._kept.add(object(), "reports", fields, _MOST_KEPT):
            self._lose()

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
        if not self._deliver(fields):
            self._lose()
            return
        lost = self._lost
        if lost != self._lost_reported and self._deliver(_lost_report(lost)):
            self._lost_reported = lost

    def _deliver(self, fields: Fields) -> bool:
        try:
            return self._output.deliver(fields)
        except OSError:
            return self._lines.deliver(fields)

    def _lose(self, count: int = 1) -> None:
        with self._lock:
            self._lost += count

    def close(self) -> None:
        """Write what `problem` still owes and let go of the socket."""
        with self._lock:
            owed = [(reason, r.held_back) for reason, r in self._repeats.items() if r.held_back]
            self._repeats.clear()
        for reason, held_back in owed:
            self._write_problem(reason, "held back until this process ended", held_back, {})
        self._report_refusals()
        self._lose(self._kept.close(CLOSE_S, self._lines.deliver))
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
    believed: bool = True,
) -> Journal:
    """Make a Journal that writes to journald where its socket is there now, else to stderr.

    An entry that no reader believes, for the user it comes from, is none where one is required.
    """
    lines = StderrOutput(stderr or sys.stderr)
    output = JournaldOutput(socket_path) if _is_socket(socket_path) else lines
    return Journal(output, lines, level, clock, believed=believed)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False

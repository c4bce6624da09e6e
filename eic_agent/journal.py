"""What is decided and what goes wrong, written to journald, or to stderr where there is no journal.

Every entry is a structlog event. One chain of processors turns it into journald's fields, all of
them escaped; an output then writes the fields and decides nothing. Writing never waits: where
journald's queue is full the entry is counted as lost.
"""

import abc
import logging
import re
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import structlog
from logging_journald import JournaldTransport
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from eic_agent.errors import Reason

JOURNALD_SOCKET = Path("/run/systemd/journal/socket")

# Constants of this project, `journalctl MESSAGE_ID=...`; the catalog explains each.
MESSAGE_ID_GRANTED = "90f2168c94cd4cb0b84a6bce5413711b"
MESSAGE_ID_REFUSED = "2f091a513c8243af9f237ca9205367a4"
MESSAGE_ID_PROBLEM = "40782ec6b740455abd12eb06e2c6a390"

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# syslog(3): severities, and the facility for security messages, LOG_AUTHPRIV
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
_PRIORITY_NOTICE = 5
_FACILITY_AUTHPRIV = 10

_REPEAT_INTERVAL_S = 10.0
_MAX_LENGTH = 2048  # above IAM's longest principal, so that no caller is ever cut
_NOT_PRINTABLE_ASCII = re.compile(r"[^ -~]")


def escape(text: str) -> str:
    r"""Make text safe in a log and on a terminal: a line of printable ASCII, 2048 at most.

    Every other character is shown as `\xNN`, `\uNNNN` or `\UNNNNNNNN`; text too long is cut, and
    says so. Made for reading: a backslash stays as it is, so escaping twice changes nothing more.
    """
    shown = _NOT_PRINTABLE_ASCII.sub(_code_point, text[: _MAX_LENGTH + 1])
    if len(shown) <= _MAX_LENGTH:
        return shown
    cut = f"... ({len(text)} characters)"
    return shown[: _MAX_LENGTH - len(cut)] + cut


def _code_point(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one key, for whom and why.

    Caller and request are None until the signature over them is verified. `expires` is in seconds
    since the epoch, `latency_us` in microseconds since the lookup arrived.
    """

    granted: bool
    reason: Reason | None
    detail: str
    user: str
    fingerprint: str | None
    caller: str | None
    request: str | None
    instance: str | None
    expires: int | None
    latency_us: int
    sshd_pid: int | None

    def __str__(self) -> str:
        key = self.fingerprint or "a key"
        if self.granted:
            caller = f" to {self.caller}" if self.caller else ""
            request = f" (request {self.request})" if self.request else ""
            return f"granted {key} for {self.user}{caller}{request}"
        caller = f", pushed by {self.caller}" if self.caller else ""
        reason = f": {self.reason.value}" if self.reason else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"refused {key} for {self.user}{caller}{reason}{detail}"


class Journal:
    """Writes entries; made by `open_journal`. Thread-safe.

    The level holds back what `problem`, `info` and `debug` write. Decisions are the audit trail
    and are written at any level.
    """

    def __init__(self, output: "_Output", level: str, clock: Callable[[], float]) -> None:
        self._output = output
        self._audit = _logger(output, logging.NOTSET)
        self._log = _logger(output, LEVELS[level])
        self._clock = clock
        self._lock = threading.Lock()
        self._repeats: dict[Reason, _Repeats] = {}

    @property
    def on_stderr(self) -> bool:
        """Whether entries are lines on stderr, for lack of a journal."""
        return isinstance(self._output, _StderrOutput)

    @property
    def lost(self) -> int:
        """Entries that could not be written since the journal was opened."""
        return self._output.lost

    def set_level(self, level: str) -> None:
        """Change the level, as a configuration that was read again may want."""
        self._log = _logger(self._output, LEVELS[level])

    def decision(self, decision: Decision) -> None:
        """Write the one entry for a decision about a key: granted at info, refused at notice."""
        granted = decision.granted
        self._audit.info(
            str(decision),
            priority=_PRIORITIES["info"] if granted else _PRIORITY_NOTICE,
            message_id=MESSAGE_ID_GRANTED if granted else MESSAGE_ID_REFUSED,
            decision="granted" if granted else "refused",
            reason=decision.reason.value if decision.reason else None,
            user=decision.user,
            fingerprint=decision.fingerprint,
            caller=decision.caller,
            request=decision.request,
            instance=decision.instance,
            expires=decision.expires,
            latency_us=decision.latency_us,
            sshd_pid=decision.sshd_pid,
        )

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
        self._log.warning(
            message,
            message_id=MESSAGE_ID_PROBLEM,
            reason=reason.value,
            held_back=held_back or None,
            **fields,
        )

    def info(self, text: str) -> None:
        """Write something worth knowing in normal operation."""
        self._log.info(text)

    def debug(self, text: str) -> None:
        """Write something that only helps to find a fault."""
        self._log.debug(text)

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


def open_journal(
    level: str = "info",
    *,
    socket_path: Path = JOURNALD_SOCKET,
    stderr: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Journal:
    """Make a Journal that writes to journald where its socket is there now, else to stderr."""
    lines = _StderrOutput(stderr or sys.stderr)
    output = _JournaldOutput(socket_path, lines) if _is_socket(socket_path) else lines
    return Journal(output, level, clock)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _logger(output: "_Output", level: int) -> FilteringBoundLogger:
    """Give a structlog logger of our own; structlog's global configuration has no part in it."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        output,
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    ).bind()
    return logger


def _add_priority(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event.setdefault("priority", _PRIORITIES[method])
    return event


# Names of journald's own (systemd.journal-fields(7)); what is not among them is ours: EIC_.
_JOURNALD_NAMES = {"event": "MESSAGE", "message_id": "MESSAGE_ID", "priority": "PRIORITY"}


def _render_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> dict[str, str]:
    """Journald's fields, escaped; a value None makes no field."""
    fields = {"SYSLOG_IDENTIFIER": "eic-agent", "SYSLOG_FACILITY": str(_FACILITY_AUTHPRIV)}
    for name, value in event.items():
        if value is not None:
            fields[_JOURNALD_NAMES.get(name, f"EIC_{name.upper()}")] = escape(str(value))
    return fields


_PROCESSORS: tuple[Processor, ...] = (_add_priority, _render_fields)


class _Output(abc.ABC):
    """Where rendered fields go; structlog calls the method that is named as the level."""

    def __init__(self) -> None:
        self.lost = 0
        self._lost_reported = 0
        self._lock = threading.Lock()

    def _write(self, **fields: str) -> None:
        if not self.deliver(fields):
            with self._lock:
                self.lost += 1
            return
        lost = self.lost
        if lost != self._lost_reported and self.deliver(_lost_report(lost)):
            self._lost_reported = lost

    debug = info = warning = error = _write

    @abc.abstractmethod
    def deliver(self, fields: dict[str, str]) -> bool:
        """Write one entry, if that goes without waiting."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what the output holds."""


def _lost_report(lost: int) -> dict[str, str]:
    event = {
        "event": f"{lost} entries were lost since this process began",
        "message_id": MESSAGE_ID_PROBLEM,
        "lost": lost,
    }
    return _render_fields(None, "warning", _add_priority(None, "warning", event))


class _StderrOutput(_Output):
    """One line for each entry: the message, then our own fields as name=value."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream  # None in a process started without a stderr
        self._render = structlog.processors.LogfmtRenderer()

    def deliver(self, fields: dict[str, str]) -> bool:
        if self._stream is None:
            return False
        own = {name: value for name, value in fields.items() if name.startswith("EIC_")}
        line = f"eic-agent: {fields['MESSAGE']} {self._render(None, '', own)}".rstrip()
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Leave the stream to whoever opened it."""


class _JournaldOutput(_Output):
    """Datagrams to journald (systemd.io/JOURNAL_NATIVE_PROTOCOL); `otherwise` has what fails."""

    def __init__(self, socket_path: Path, otherwise: _StderrOutput) -> None:
        super().__init__()
        # Not connected: each datagram finds journald's socket anew, also after a restart.
        self._transport = JournaldTransport(socket_path, connected=False)
        self._transport.socket.setblocking(False)
        self._otherwise = otherwise

    def deliver(self, fields: dict[str, str]) -> bool:
        try:
            self._transport.send(fields.items())
        except BlockingIOError:
            return False
        except OSError:
            return self._otherwise.deliver(fields)
        return True

    def close(self) -> None:
        self._transport.socket.close()

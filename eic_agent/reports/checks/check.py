"""What a check of doctor's is, and what it may find."""

import enum
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any


class Level(str, enum.Enum):
    """How bad a finding is; only an error makes doctor end with 1."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    NOT_SEEN = "not seen"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was found, and where that is not well the one thing to do about it."""

    level: Level
    what: str
    remedy: str = ""

    def data(self, check: str) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {"check": check, **asdict(self), "level": self.level.value}


@dataclass(frozen=True, slots=True)
class Check:
    """A thing to look at; nothing is changed by looking."""

    title: str
    look: Callable[[], Iterable[Finding]]


def ok(what: str) -> Finding:
    """Find that all is well."""
    return Finding(Level.OK, what)


def warning(what: str, remedy: str) -> Finding:
    """Find what costs no login now."""
    return Finding(Level.WARNING, what, remedy)


def error(what: str, remedy: str) -> Finding:
    """Find why logins by pushed keys do not work, or will not."""
    return Finding(Level.ERROR, what, remedy)


def not_seen(what: str) -> Finding:
    """Say that it takes root to look."""
    return Finding(Level.NOT_SEEN, f"{what}: not seen without root", "Run this as root")

"""`eic-agent doctor`: the whole installation, each line with the one thing to do about it."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from eic_agent.errors import EicAgentError
from eic_agent.journal.entries import escape
from eic_agent.lookup.users import UserDatabase
from eic_agent.reports import config_check
from eic_agent.reports.checks.check import Check, Finding, Level, warning

Titled = tuple[str, Finding]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Every finding, in the order of the checks."""

    found: tuple[Titled, ...]

    def of(self, level: Level) -> int:
        """How many findings are of a level."""
        return sum(finding.level is level for _, finding in self.found)

    @property
    def exit_status(self) -> int:
        """1 where something is wrong, or could not be seen."""
        return 1 if self.of(Level.ERROR) or self.of(Level.NOT_SEEN) else 0

    def data(self) -> dict[str, Any]:
        """Give everything as JSON can hold it."""
        return {
            "well": self.exit_status == 0,
            "findings": [finding.data(title) for title, finding in self.found],
        }

    def text(self) -> str:
        """Give the verdict, then a line for each finding with what to do below it."""
        lines = [self._verdict(), ""]
        for title, finding in self.found:
            lines.append(f"{finding.level.value:8}  {title}: {finding.what}")
            if finding.remedy:
                lines.append(f"{'':8}  -> {finding.remedy}")
        return "\n".join(map(escape, lines))

    def _verdict(self) -> str:
        errors, warnings = self.of(Level.ERROR), self.of(Level.WARNING)
        if errors:
            first = next(f"{t}: {f.what}" for t, f in self.found if f.level is Level.ERROR)
            more = f" (and {errors - 1} more)" if errors > 1 else ""
            return f"Something is wrong: {first}{more}"
        if self.of(Level.NOT_SEEN):
            return "Nothing wrong was seen, but not everything can be seen without root."
        return "All is well." if not warnings else f"All is well, with {warnings} warning(s)."


def diagnose(checks: Iterable[Check], as_agent: Callable[[], Iterable[Titled]]) -> Diagnosis:
    """Run the checks, and `as_agent` in a process that has become the agent's user."""
    found = [(check.title, finding) for check in checks for finding in check.look()]
    return Diagnosis((*found, *_in_another_process(as_agent)))


def _in_another_process(look: Callable[[], Iterable[Titled]]) -> Iterator[Titled]:
    """Become the agent's user for good, in a child; its findings come through a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            whose_eyes = config_check.become_agent(UserDatabase())
            found = [(title, finding.data(title)) for title, finding in look()]
            if whose_eyes is not None:
                said = warning(whose_eyes, "Run this as root, where the package is installed")
                found.append(("seen by", said.data("seen by")))
            with os.fdopen(writing, "w") as pipe:
                json.dump(found, pipe)
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise EicAgentError("the process that looks as the agent's user has failed")
    for title, data in json.loads(text):
        yield title, Finding(Level(data["level"]), data["what"], data["remedy"])

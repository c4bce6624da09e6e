"""`eic-agent status`: whether the running agent is ready and asked by sshd, and its counters."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from eic_agent.journal.entries import escape
from eic_agent.reports import wire
from eic_agent.resident.connection import STATUS_PROTOCOL
from eic_agent.sshd.status import Report

# name in the status: (OpenMetrics name, type, help)
_METRICS = {
    "uptime_s": ("uptime_seconds", "gauge", "Time since the agent started."),
    "lookups": ("lookups", "counter", "Lookups answered."),
    "granted": ("granted", "counter", "Keys that sshd was told of."),
    "refused": ("refused", "counter", "Keys refused, by reason."),
    "undecided": ("undecided", "counter", "Lookups without a decision, by reason."),
    "fallbacks": ("fallbacks", "counter", "Lookups that clients made without the agent."),
    "overloaded": ("overloaded", "counter", "Lookups turned away for lack of room."),
    "metadata_requests": ("metadata_requests", "counter", "HTTP requests sent to metadata."),
    "latency_s": ("lookup_latency_seconds", "summary", "Latency of the last 1000 lookups."),
    "signer_fetches": ("signer_fetches", "counter", "Times that a signer was verified."),
    "journal_entries_lost": ("journal_entries_lost", "counter", "Entries not written."),
}


def ask(path: Path) -> dict[str, Any]:
    """Give what the agent at a socket says of itself. Raises wire.NotRunning."""
    status: dict[str, Any] = json.loads(wire.ask(path, STATUS_PROTOCOL))
    return status


@dataclass(frozen=True, slots=True)
class Health:
    """What the agent says of itself, and what sshd does; None where that is another's agent."""

    agent: Mapping[str, Any]
    sshd: Report | None

    @property
    def problem(self) -> str | None:
        """Say why logins by pushed keys cannot work; None where they can."""
        if invalid := self.agent.get("invalid_config"):
            return f"the configuration is invalid, so no key is granted: {invalid}"
        if self.sshd is not None and self.sshd.exit_status and self.sshd.not_seen is None:
            said = [problem.what for problem in self.sshd.problems]
            return "; ".join(said) or "sshd does not ask eic-agent, or would not run its client"
        if self.agent.get("signer") is None and self.agent.get("signer_kept"):
            return "no signer is proved now; `eic-agent doctor` says why"
        return None

    def data(self) -> dict[str, Any]:
        """Give everything as JSON can hold it."""
        asks = None if self.sshd is None else self.sshd.asks_us
        return {"ready": self.problem is None, "problem": self.problem, "sshd_asks": asks} | dict(
            self.agent
        )

    def text(self, now: float) -> str:
        """Give the verdict, then a line for each fact that it rests on."""
        agent, problem = self.agent, self.problem
        read_at, granted_at = agent.get("configuration_read_at"), agent.get("granted_at")
        signer = agent.get("signer")
        lines = [f"Not ready: {problem}" if problem else "Ready."]
        facts = {
            "sshd": self._sshd(),
            "configuration": "invalid" if read_at is None else f"valid, read {_moment(read_at)}",
            "signer": f"{signer['name']}, proved until {_moment(now + signer['holds_s'])}"
            if signer
            else "none is proved now",
            "last grant": "none" if granted_at is None else _moment(granted_at),
            "running since": f"{_moment(now - agent['uptime_s'])}, version {agent['version']}",
        }
        lines += [f"  {name:14} {fact}" for name, fact in facts.items()]
        return "\n".join(map(escape, lines))

    def _sshd(self) -> str:
        if self.sshd is None:
            return "not looked at: this is not the socket that sshd's client asks"
        if self.sshd.not_seen is not None:
            return "not seen without root"
        return f"asks, as {self.sshd.user}" if not self.sshd.exit_status else "does not ask"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def counters(status: Mapping[str, Any]) -> str:
    """Give all that the agent counts for people, a line for each."""
    return "\n".join(f"{escape(name):24} {escape(value)}" for name, value in _flat(status))


def _flat(status: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in status.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)


def openmetrics(status: Mapping[str, Any]) -> str:
    """Give the status as OpenMetrics 1.0 text."""
    lines = []
    for name in filter(status.__contains__, _METRICS):
        metric, kind, meaning = _METRICS[name]
        full = f"eic_agent_{metric}"
        lines += [f"# TYPE {full} {kind}", f"# HELP {full} {meaning}"]
        value = status[name]
        if kind == "summary":
            lines += [
                f'{full}{{quantile="{int(percent) / 100}"}} {seconds}'
                for percent, seconds in value.items()
                if seconds is not None
            ]
        elif isinstance(value, dict):
            lines += [f'{full}_total{{reason="{reason}"}} {n}' for reason, n in value.items()]
        else:
            lines.append(f"{full}{'_total' if kind == 'counter' else ''} {value}")
    lines += [
        "# TYPE eic_agent_configuration_valid gauge",
        "# HELP eic_agent_configuration_valid 0 where no key is granted for an invalid one.",
        f"eic_agent_configuration_valid {int('invalid_config' not in status)}",
    ]
    if status.get("signer"):
        lines += [
            "# TYPE eic_agent_signer_holds_seconds gauge",
            "# HELP eic_agent_signer_holds_seconds How long the verified signer may be used.",
            f"eic_agent_signer_holds_seconds {status['signer']['holds_s']}",
        ]
    return "\n".join([*map(escape, lines), "# EOF", ""])

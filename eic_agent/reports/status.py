"""`eic-agent status`: asks the running agent for its counters, and shows them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eic_agent.journal.entries import escape
from eic_agent.reports import wire
from eic_agent.resident.connection import STATUS_PROTOCOL

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


def text(status: Mapping[str, Any]) -> str:
    """Give the status for people, a line for each fact."""
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

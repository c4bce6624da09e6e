"""The resident agent: an authorizer behind the service, and what it tells about itself."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from eic_agent import __version__, client
from eic_agent.errors import ConfigError, Reason
from eic_agent.journal.entries import escape
from eic_agent.journal.writer import Journal
from eic_agent.lookup.authorizer import Authorizer
from eic_agent.lookup.authorizer import Counters as LookupCounters
from eic_agent.lookup.explanation import explain, undecided
from eic_agent.lookup.question import Question
from eic_agent.metadata.deadline import Deadline
from eic_agent.resident.connection import Reply, Request
from eic_agent.resident.limits import Counters, Handlers

_HINTS = {
    Reason.METADATA_UNAVAILABLE: "see whether the instance's metadata service is enabled "
    "(IMDSv2, with any hop limit) and whether a firewall on this host blocks it",
    Reason.INVALID_CONFIG: "run `eic-agent config check`",
}
# Rules on groups and ids ask it before metadata is asked for anything.
_USERS_HINT = "see with `id USER` whether a service in /etc/nsswitch.conf hangs"


def explained(reason: Reason, detail: str) -> str:
    """Say in one line for a terminal why nothing was decided, and what to do about it."""
    shown = "; ".join(escape(line) for line in detail.splitlines())
    hint = _USERS_HINT if "the user database" in detail else _HINTS[reason]
    return f"{reason.value}: {shown}; {hint}"


@dataclass(frozen=True, slots=True)
class Agent:
    """One configuration's lookups, for as long as this configuration holds."""

    authorizer: Authorizer
    journal: Journal
    clock: Callable[[], float]
    started: float  # monotonic
    read_at: float  # when the configuration was read, by the wall clock

    def answer(self, request: Request) -> Reply:
        """Answer one lookup, and have it in the journal before the answer leaves."""
        question = Question(
            request.user,
            request.fingerprint,
            request.sshd_pid,
            client_pid=request.peer.pid,
            client_uid=request.peer.uid,
        )
        deadline = Deadline(request.ends)
        if request.explain:
            found = explain(self.authorizer, question, deadline)
            return Reply((json.dumps(found.data()),))
        answer = self.authorizer.lookup(question, deadline)
        recorded = self.authorizer.record(question, answer, deadline)
        if recorded.undecided is not None:
            return Reply((explained(recorded.undecided, recorded.detail),), decided=False)
        return Reply(recorded.lines, undelivered=lambda: self.authorizer.undelivered(recorded))

    def status(self, service: Counters) -> Mapping[str, object]:
        """Say for `eic-agent status` what happened since the start; times in seconds."""
        counters = self.authorizer.counters
        signer = self.authorizer.signers.cached()
        latencies = sorted(counters.latencies_s.copy())
        return {
            "version": __version__,
            "configuration_read_at": self.read_at,
            **_counted(counters, service, self.started),
            "metadata_requests": self.authorizer.metadata.requests_sent,
            "latency_s": {
                str(percent): latencies[len(latencies) * percent // 100] if latencies else None
                for percent in (50, 90, 99)
            },
            "signer": signer
            and {"name": signer.name, "holds_s": round(signer.valid_until - self.clock(), 3)},
            "signer_kept": self.authorizer.signers.keeps,
            "granted_at": counters.granted_at,
            "signer_fetches": self.authorizer.signers.fetches,
            "journal_entries_lost": self.journal.lost,
            "journal_entries_waiting": self.journal.waiting,
            "service": dataclasses.asdict(service),
        }


def without_configuration(
    error: ConfigError, journal: Journal, counters: LookupCounters, started: float
) -> Handlers:
    """Answer every lookup that the configuration is invalid; the service reads it again."""
    detail = str(error)
    line = explained(Reason.INVALID_CONFIG, detail)
    lock = threading.Lock()

    def answer(request: Request) -> Reply:
        if request.explain:
            question = Question(request.user, request.fingerprint)
            found = undecided(question, Reason.INVALID_CONFIG, detail)
            return Reply((json.dumps(found.data()),))
        with lock:
            counters.lookups += 1
            counters.undecided[Reason.INVALID_CONFIG.value] += 1
        journal.problem(Reason.INVALID_CONFIG, detail, user=request.user)
        return Reply((line,), decided=False)

    def status(service: Counters) -> Mapping[str, object]:
        return {
            "version": __version__,
            "invalid_config": detail,
            **_counted(counters, service, started),
            "service": dataclasses.asdict(service),
        }

    return Handlers(answer, status, frozenset(), client.DEADLINE_S, 0.0, invalid=detail)


def _counted(counters: LookupCounters, service: Counters, started: float) -> dict[str, object]:
    return {
        "uptime_s": round(time.monotonic() - started, 3),
        "lookups": counters.lookups,
        "granted": counters.granted,
        "refused": dict(counters.refused),
        "undecided": dict(counters.undecided),
        "fallbacks": service.fallbacks,
        "overloaded": service.overloaded,
    }

"""An agent in this process beside a simulated instance."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eic_agent.errors import Reason
from eic_agent.journal.entries import Decision
from eic_agent.journal.writer import open_journal
from eic_agent.lookup.authorizer import Authorizer, Counters, Rules
from eic_agent.lookup.memory import Memory
from eic_agent.lookup.policy import KeyRules, Policy
from eic_agent.lookup.question import Answer, Question
from eic_agent.lookup.trust import TrustRules
from eic_agent.lookup.users import UserDatabase
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_sandbox.simulator import MetadataSimulator, SSHKey, new_key

NOW = 1_800_000_000.0
ALICES_KEY = new_key()


@dataclass
class Rig:
    """A simulator, the rules of an agent that trusts it, and the clocks: wall, and of the boot."""

    sim: MetadataSimulator
    url: str
    workers: ThreadPoolExecutor
    rules: Rules
    now: float = NOW
    boot: float = 1000.0
    users: UserDatabase = field(default_factory=UserDatabase)
    _agents: list[MetadataClient] = field(default_factory=list)

    def change(self, **keys: Any) -> None:
        """Change some of the agent's `[keys]`."""
        policy = replace(self.rules.policy, keys=replace(self.rules.policy.keys, **keys))
        self.rules = replace(self.rules, policy=policy)

    def pass_time(self, seconds: float) -> None:
        """Let both clocks go on."""
        self.now += seconds
        self.boot += seconds

    def agent(self, memory: Memory | None = None, **imds: Any) -> Authorizer:
        """Start an agent that knows nothing yet, or has only its configuration read anew."""
        metadata = MetadataClient(imds.pop("endpoint", self.url), **{"timeout_s": 5.0, **imds})
        self._agents.append(metadata)
        return Authorizer(
            metadata,
            self.rules,
            open_journal(),
            lambda: self.now,
            self.workers,
            Counters(),
            self.users,
            memory=Memory(lambda: self.boot) if memory is None else memory,
        )

    def ask(
        self, user: str = "alice", key: SSHKey | None = None, agent: Authorizer | None = None
    ) -> Answer:
        """Look up a user's keys, or one of them, by default with a new agent."""
        question = Question(user, key.fingerprint if key else None)
        return (agent or self.agent()).lookup(question, Deadline.after(20))

    def refusals(self, user: str = "alice", agent: Authorizer | None = None) -> list[Reason]:
        """Look up a user none of whose keys may be granted, and give the reasons."""
        answer = self.ask(user, agent=agent)
        assert not answer.lines
        assert answer.undecided is None
        return [reason for d in answer.decisions if (reason := d.reason) is not None]

    def close(self) -> None:
        """End every agent."""
        for metadata in self._agents:
            metadata.close()


@contextlib.contextmanager
def make_rig(directory: Path, **instance: Any) -> Iterator[Rig]:
    """Serve a simulated instance, with a key pushed for alice."""
    sim = MetadataSimulator(now=NOW, **instance)
    anchors = directory / "anchors.pem"
    anchors.write_bytes(sim.anchors_pem)
    rules = Rules(
        policy=Policy(KeyRules()),
        trust=TrustRules(anchors=str(anchors)),
        sysfs_root=sim.sysfs(directory),
        deadline_s=20,
    )
    sim.push("alice", ALICES_KEY)
    with sim.serve() as url, ThreadPoolExecutor(4) as workers:
        rig = Rig(sim, url, workers, rules)
        try:
            yield rig
        finally:
            rig.close()


def only(answer: Answer) -> Decision:
    """Give the one decision of an answer."""
    (decision,) = answer.decisions
    return decision

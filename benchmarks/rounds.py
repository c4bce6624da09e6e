"""Runs the contestants in turn, checks every answer, and keeps what each run took."""

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import metadata
from benchmarks.agents import Agent, Nobody
from benchmarks.launched import Cost, Launcher
from benchmarks.machine import BenchError, Machine

_NOBODY = Nobody()


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of some values; of none at all they are not a number."""
        if not values:
            return cls(math.nan, math.nan, math.nan)
        several = [*values, *values] if len(values) == 1 else values
        low, median, high = statistics.quantiles(several, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass
class Contestant:
    """One program, what it must print, and what its runs took so far.

    `agent` is the resident agent that it asks, if it does. A wrong answer ends the bench, or is
    only counted where the contestant `may_fail`: the reference gives up after 5 s.
    """

    name: str
    argv: Sequence[str]
    prints: frozenset[str] = frozenset()
    agent: Agent | None = None
    runs_in_a_round: int = 1
    may_fail: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    failures: int = 0
    peak_bytes: int = 0
    costs: list[Cost] = field(default_factory=list)
    agent_cpu_s: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)

    @property
    def wall(self) -> Spread:
        """Seconds from start to end."""
        return Spread.of([cost.wall_s for cost in self.costs])

    @property
    def cpu_s(self) -> float:
        """Median seconds of CPU, of the program and its children."""
        return statistics.median(cost.cpu_s for cost in self.costs)

    def is_right(self, cost: Cost) -> bool:
        """Whether it did what is to be measured."""
        return (
            cost.status == 0 and frozenset(cost.stdout.decode().splitlines()) - {""} == self.prints
        )


def run_rounds(
    machine: Machine,
    launcher: Launcher,
    contestants: Sequence[Contestant],
    rounds: int,
    refresh: Callable[[], None],
) -> None:
    """Let all run in turn, in another order each round; `refresh` keeps the keys valid."""
    chance = random.Random(0)
    for number in range(rounds + 2):
        refresh()
        turns = [c for c in contestants for _ in range(c.runs_in_a_round)]
        chance.shuffle(turns)
        for contestant in turns:
            # The first round fills the system's caches, the second is for memory.
            _run(machine, launcher, contestant, keep=number > 1, weigh=number == 1)


def _run(
    machine: Machine, launcher: Launcher, contestant: Contestant, *, keep: bool, weigh: bool
) -> None:
    agent = contestant.agent or _NOBODY
    machine.metadata.do(metadata.take_requests)
    agent.prepare()
    cost = launcher.run(
        contestant.argv,
        weigh=weigh,
        meanwhile=agent.meanwhile,
        environment=contestant.environment,
    )
    agent_cpu_s = agent.finish()
    requests = machine.metadata.do(metadata.take_requests)
    if not contestant.is_right(cost):
        if not contestant.may_fail:
            raise BenchError(
                f"{contestant.name}: a wrong answer is not worth timing: "
                f"status {cost.status}, {cost.stdout[:200]!r}"
            )
        contestant.failures += keep
        return
    if weigh:
        contestant.peak_bytes = cost.peak_bytes
    if keep:
        contestant.costs.append(cost)
        contestant.agent_cpu_s.append(agent_cpu_s)
        contestant.requests.append(sum(requests.values()))

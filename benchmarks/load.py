"""Many lookups at once against a resident agent while keys come and go; every answer is judged.

A lookup must be told of each key whose push was finished before it began and that is valid beyond
its end, and of none that was never pushed for the user, pushed after its end, or expired before it
began. What changes while a lookup is under way may be answered either way.
"""

import itertools
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import metadata
from benchmarks.metadata import MetadataProcess
from eic_agent import client
from eic_sandbox.simulator import SSHKey, new_key


@dataclass(frozen=True, slots=True)
class Push:
    """One push: the moments between which it became visible, and its expiry; all wall-clock."""

    user: str
    key: SSHKey
    asked: float
    done: float
    expires: int


class PushLog:
    """Every push so far, and what follows from it for an answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pushes: dict[str, list[Push]] = {}

    def add(self, push: Push) -> None:
        """Enter a push that is finished."""
        with self._lock:
            self._pushes.setdefault(push.user, []).append(push)

    def of(self, user: str) -> list[Push]:
        """Every push for this user."""
        with self._lock:
            return list(self._pushes.get(user, ()))

    def judge(
        self, user: str, fingerprint: str | None, lines: Sequence[str], begun: float, ended: float
    ) -> list[str]:
        """Say what is wrong with an answer given between these moments.

        Call it when every push that was under way at `ended` has been entered.
        """
        pushes = [p for p in self.of(user) if fingerprint in (None, p.key.fingerprint)]
        must = {p.key.line for p in pushes if p.done <= begun and p.expires > ended}
        may = {p.key.line for p in pushes if p.asked <= ended and p.expires > begun}
        told = set(lines)
        return [
            *(f"{user} was not told of {line}" for line in must - told),
            *(f"{user} was told of {line}" for line in told - may),
            *([f"{user} was told of a key twice"] if len(told) != len(lines) else []),
        ]


@dataclass(frozen=True, slots=True)
class Lookup:
    """One lookup and its answer; wall-clock moments."""

    user: str
    fingerprint: str | None
    verdict: bytes
    payload: bytes
    begun: float
    ended: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process holds: own memory, and its peak with files, in bytes; descriptors; threads."""

    rss_anon: int
    peak: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Vitals":
        """Read them from /proc."""
        proc = Path(f"/proc/{pid}")
        fields = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        return cls(
            int(fields["RssAnon"].split()[0]) * 1024,
            int(fields["VmHWM"].split()[0]) * 1024,
            len(list((proc / "fd").iterdir())),
            int(fields["Threads"]),
        )


@dataclass
class LoadReport:
    """What became of a load."""

    lookups: list[Lookup] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    keys_granted: int = 0
    pushes: int = 0
    vitals: list[tuple[int, Vitals]] = field(default_factory=list)  # after so many lookups

    @property
    def latencies_s(self) -> list[float]:
        """How long each lookup took."""
        return [lookup.ended - lookup.begun for lookup in self.lookups]


def ask(socket: Path, user: str, fingerprint: str | None, patience_s: float = 30.0) -> Lookup:
    """Ask the resident agent as client.py does, in this process."""
    begun = time.time()
    ends = time.monotonic() + patience_s
    verdict, payload = client.ask(str(socket), user, fingerprint or "", 0, ends)
    return Lookup(user, fingerprint, verdict, payload, begun, time.time())


@dataclass
class Load:
    """Lookups at an even rate from some clients, and pushes of short-lived keys beside them."""

    socket: Path
    agent_pid: int
    service: MetadataProcess
    lookups: int = 10_000
    seconds: float = 60.0
    clients: int = 20
    users: int = 10
    pushes_per_s: float = 10.0
    lifetimes_s: tuple[int, int] = (1, 6)
    late_s: float = 0.02  # how old an answer is when it comes
    log: PushLog = field(default_factory=PushLog)

    def run(self) -> LoadReport:
        """Put the load on, and judge every answer when all is over."""
        self._report = LoadReport()
        self._numbers, self._over = itertools.count(), threading.Event()
        self._begun = time.monotonic()
        self.service.do(metadata.set_linger, 0.5)
        self.service.do(metadata.answer_late, self.late_s)
        with ThreadPoolExecutor(self.clients + 2) as threads:
            aside = [threads.submit(self._push), threads.submit(self._watch)]
            try:
                for lookups in [threads.submit(self._look_up, n) for n in range(self.clients)]:
                    lookups.result()
            finally:
                self._over.set()
            for task in aside:
                task.result()
        self.service.do(metadata.answer_late, 0.0)
        for lookup in self._report.lookups:
            self._judge(lookup)
        return self._report

    def _push(self) -> None:
        chance = random.Random(1)
        for number in itertools.count():
            due = self._begun + number / self.pushes_per_s
            if self._over.wait(max(0.0, due - time.monotonic())):
                return
            user, key, asked = f"load-{chance.randrange(self.users)}", new_key(), time.time()
            expires = int(asked) + chance.randint(*self.lifetimes_s)
            self.service.do(metadata.push_one, user, key.line, expires)
            self.log.add(Push(user, key, asked, time.time(), expires))
            self._report.pushes += 1
            # The moment at which a shared answer would be one that left too early.
            self._report.lookups.append(ask(self.socket, user, key.fingerprint))

    def _look_up(self, client_number: int) -> None:
        chance = random.Random(client_number)
        while (number := next(self._numbers)) < self.lookups:
            due = self._begun + number * self.seconds / self.lookups
            time.sleep(max(0.0, due - time.monotonic()))
            user = f"load-{chance.randrange(self.users + 2)}"  # for two of them nobody pushes
            pushed = [push.key.fingerprint for push in self.log.of(user)[-10:]]
            fingerprint = chance.choice([None, new_key().fingerprint, *pushed])
            self._report.lookups.append(ask(self.socket, user, fingerprint))

    def _watch(self) -> None:
        while not self._over.wait(self.seconds / 60):
            vitals = Vitals.of(self.agent_pid)
            self._report.vitals.append((len(self._report.lookups), vitals))

    def _judge(self, lookup: Lookup) -> None:
        if lookup.verdict != client.DECIDED:
            self._report.undecided.append(lookup.payload.decode())
            return
        lines = lookup.payload.decode().splitlines()
        self._report.keys_granted += len(lines)
        self._report.wrong += self.log.judge(
            lookup.user, lookup.fingerprint, lines, lookup.begun, lookup.ended
        )
